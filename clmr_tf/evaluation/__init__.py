"""Heads trained on frozen features, by the protocols that published numbers come from."""
