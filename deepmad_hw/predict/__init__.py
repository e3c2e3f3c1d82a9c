"""From measured rows to predicted latencies. Layer 3."""
