"""Dropout, attention and matrix products that are faster on a CPU."""
