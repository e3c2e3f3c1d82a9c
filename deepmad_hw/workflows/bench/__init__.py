"""Networks measured on this machine, beside what a table predicts. Layer 4."""
