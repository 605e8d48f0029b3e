"""A run: its stages one after the other, what each computes, and what it writes."""
