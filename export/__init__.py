"""PyTorch to ONNX graphs, with their manifest."""
