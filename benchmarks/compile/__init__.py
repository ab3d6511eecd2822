"""What a compile costs and what it gives, against Optimum and ONNX Runtime's own quantizer."""
