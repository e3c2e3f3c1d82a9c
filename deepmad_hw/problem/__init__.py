"""What is asked for, what a design is worth, what comes out, and the judge of it. Layer 2."""
