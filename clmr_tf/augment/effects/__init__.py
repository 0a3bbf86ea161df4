"""One file per effect: the effect as a pure function, and the augmentation that draws its parameters."""
