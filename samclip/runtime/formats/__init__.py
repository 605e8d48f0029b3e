"""Formats that annotation tools and trainers read: one sample at a time, from photos or frames."""
