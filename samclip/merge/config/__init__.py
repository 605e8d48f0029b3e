"""The file that describes a training run: tables, stages, and their checks."""
