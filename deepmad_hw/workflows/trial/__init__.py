"""Short trainings that say which objective ranks networks best on the user's own images. Layer 4."""
