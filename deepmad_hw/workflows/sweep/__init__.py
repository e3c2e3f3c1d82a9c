"""Many budgets, many devices: which points, in which order, solved where. Layer 4."""
