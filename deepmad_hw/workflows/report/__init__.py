"""The report: results as one page that opens anywhere, and its plots as files. Layer 4."""
