"""Open-Vocabulary SAM."""
