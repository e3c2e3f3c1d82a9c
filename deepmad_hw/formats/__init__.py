"""How networks, problems, solutions and tables look in files. Layer 2."""
