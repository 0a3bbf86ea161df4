"""Networks and the loss: the SampleCNN encoder, the projector and classifier, and NT-Xent."""
