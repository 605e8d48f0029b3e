"""Bundles as checkpoints: torch weights rebuilt from the graphs that a bundle holds."""
