"""Backends that run ONNX graphs on this device."""
