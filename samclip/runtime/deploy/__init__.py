"""Bundles on a device that are replaced while programs run: deploy, roll back, what is there."""
