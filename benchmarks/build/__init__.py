"""Engines built ahead: run.py measures what edgebig adds to TensorRT-RTX's own time, and a second build."""
