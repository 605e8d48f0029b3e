"""Reduced precision: which nodes keep FP32, typed half graphs, INT8, and the gates."""
