"""Networks and the loss: the encoders, the projector and classifier, and NT-Xent."""
