"""TensorRT plans: built from graphs, kept with a sidecar, and checked before they are used."""
