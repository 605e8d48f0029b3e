"""Two reports held together."""
