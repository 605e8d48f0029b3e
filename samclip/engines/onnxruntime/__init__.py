"""ONNX Runtime: sessions on the CPU, and on NVIDIA GPUs through its CUDA and TensorRT providers."""
