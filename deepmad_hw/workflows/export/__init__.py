"""Networks as files for other programs, and how near these come to the original. Layer 4."""
