"""The device side: measures a packed plan on the machine it runs on. Layer 3, sees layers 0 and 1 only."""
