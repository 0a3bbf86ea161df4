"""Using a trained encoder: embeddings, tags, similar songs."""
