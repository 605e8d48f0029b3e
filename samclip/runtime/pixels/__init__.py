"""The ground of the runtime: images, masks and prompts as arrays, without any model."""
