"""Bundles as model repositories of NVIDIA's Triton server."""
