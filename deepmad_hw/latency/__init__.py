"""What layers take on a device: times, tables of them, and what a table may be asked. Layer 2."""
