"""The time inside graphs: by operator, by module, by node."""
