"""Networks as files: ONNX, PyTorch, engines. Layer 3."""
