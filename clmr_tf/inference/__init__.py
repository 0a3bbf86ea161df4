"""A trained encoder in use: embeddings, tags, similar songs."""
