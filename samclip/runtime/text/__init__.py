"""From names to embeddings: templates, tokenizer, caches."""
