"""Results: the records, and the folders that they are kept in. Layer 4."""
