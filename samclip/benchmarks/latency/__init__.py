"""Time and energy of stages and tasks: models are measured in turn, nothing is clipped."""
