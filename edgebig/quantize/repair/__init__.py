"""Repairs of accuracy without training: better rounding, and scales moved between operators."""
