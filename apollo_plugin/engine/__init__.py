"""Engines: samples in, restored samples out, by onnxruntime or by PyTorch."""
