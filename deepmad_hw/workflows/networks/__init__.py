"""Networks by whatever a person has of them. Layer 4."""
