"""The frozen models that a merged one learns from."""
