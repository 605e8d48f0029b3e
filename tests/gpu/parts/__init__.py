"""The parts of the GPU check: each a function from options to rows, run in a separate process."""
