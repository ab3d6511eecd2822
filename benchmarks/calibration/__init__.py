"""Calibration against the plain forward pass, ONNX Runtime's calibrators and NNCF: run.py measures it."""
