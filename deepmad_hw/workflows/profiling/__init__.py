"""A machine timed layer by layer: the way to a latency table. Layer 4."""
