"""Photos and labels on their way into training: sources, shards, sampling, views, batches."""
