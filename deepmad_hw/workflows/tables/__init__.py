"""Latency tables: loaded, checked, joined, taken over from others, handed on. Layer 4."""
