"""One problem solved, checked, and measured until its budget is used. Layer 4."""
