"""Checkpoints: files of weights, fetched, verified, read, and renamed for our models."""
