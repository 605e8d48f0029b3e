"""How long stages and tasks take: measured in turn, nothing clipped."""
