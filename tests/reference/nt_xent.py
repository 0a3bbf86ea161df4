"""NT-Xent as in the paper, one anchor at a time."""

import math

import numpy as np


def nt_xent(z_i: np.ndarray, z_j: np.ndarray, temperature: float) -> float:
    """Computes equation 1 of SimCLR (Chen et al. 2020), averaged over all 2N anchors, in float64."""
    vectors = [*z_i.astype(np.float64), *z_j.astype(np.float64)]
    num_pairs = len(z_i)

    def similarity(a: int, b: int) -> float:
        return float(vectors[a] @ vectors[b] / (np.linalg.norm(vectors[a]) * np.linalg.norm(vectors[b])))

    total = 0.0
    for anchor in range(2 * num_pairs):
        positive = (anchor + num_pairs) % (2 * num_pairs)
        denominator = sum(
            math.exp(similarity(anchor, other) / temperature) for other in range(2 * num_pairs) if other != anchor
        )
        total -= math.log(math.exp(similarity(anchor, positive) / temperature) / denominator)
    return total / (2 * num_pairs)
