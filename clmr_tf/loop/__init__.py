"""The loop around the training step: what happens between two steps, and when."""
