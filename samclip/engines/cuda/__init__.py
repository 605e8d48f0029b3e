"""NVIDIA GPUs: memory, streams and captured graphs, through pycuda or cuda-python."""
