"""Many images into parquet files: the question, the images, the workers, and what is kept."""
