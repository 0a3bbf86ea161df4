"""Checkpoints of the released PyTorch code, read and written without PyTorch."""
