"""Networks: the SampleCNN encoder, its batch normalisation, and the projector that training throws away."""
