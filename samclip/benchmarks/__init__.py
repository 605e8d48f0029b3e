"""Latency, memory and accuracy measurements."""
