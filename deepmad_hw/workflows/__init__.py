"""The verbs as functions: they join the siblings of layer 3. Layer 4."""
