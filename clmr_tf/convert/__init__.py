"""Reading and writing PyTorch checkpoints."""
