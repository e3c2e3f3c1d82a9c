"""Designs convolutional networks for a device and a latency budget. Imports nothing heavy."""
