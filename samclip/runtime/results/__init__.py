"""Results of tasks: arrays in pixels of the original image, pictures and interchange formats."""
