"""Run files: what a person asks for, in YAML or by flags. Layer 4."""
