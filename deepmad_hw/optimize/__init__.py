"""The solvers: continuous, fast, certified. Layer 3."""
