"""What a network is: its numbers, its layers, and what these cost. Layer 2."""
