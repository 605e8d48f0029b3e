"""Engines in separate processes, which can be ended whatever they do."""
