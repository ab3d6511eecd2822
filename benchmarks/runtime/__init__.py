"""What quantization costs in accuracy, beside other tools."""
