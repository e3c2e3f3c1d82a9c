"""How files are written and read, whatever is in them. Layer 2, standard library only."""
