"""Checkpoints: files of weights, verified, read, and named by our models."""
