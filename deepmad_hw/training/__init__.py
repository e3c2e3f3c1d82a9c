"""What trains networks: needs torch, numpy and the standard library, so that its files also run alone. Layer 2."""
