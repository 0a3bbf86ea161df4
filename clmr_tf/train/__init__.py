"""Training: the step, the loop around it, checkpoints, devices and logs."""
