"""Networks and the loss: the encoders, the projector and classifier, and NT-Xent."""

EMBEDDING_DIM = 512
"""Length of the embedding of every encoder."""
