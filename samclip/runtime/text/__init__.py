"""Names to embeddings: templates, tokenizers, vocabularies and caches."""
