"""Comparison of bundles with other ways to run the same models, each in its own environment."""
