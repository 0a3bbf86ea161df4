"""State dicts as the original code has them, of random numbers that do not depend on this package or on PyTorch."""

import itertools

import numpy as np

# SampleCNN at a sixteenth of its width; the last two layers always have 512 channels.
CHANNELS = (8, 8, 8, 16, 16, 16, 16, 16, 16, 512, 512)
SIZES = {22050: (3,) * 9, 16000: (3, 3, 3, 3, 3, 3, 5, 2, 2), 8000: (3, 3, 3, 2, 2, 4, 4, 2, 2)}
NUM_SAMPLES = {22050: 59049, 16000: 43470, 8000: 20736}
NUM_TAGS = 50
PROJECTION_DIM = 64


def audio(rate: int) -> np.ndarray:
    """Two clips of noise, float32 [2, samples]."""
    return np.random.default_rng(rate).uniform(-0.9, 0.9, (2, NUM_SAMPLES[rate])).astype(np.float32)


def encoder(rate: int = 22050) -> dict[str, np.ndarray]:
    """`sequential.*` of SampleCNN; its biases matter, and no two of its weights are alike."""
    generator = np.random.default_rng(5)

    def uniform(low: float, high: float, *shape: int) -> np.ndarray:
        return generator.uniform(low, high, shape).astype(np.float32)

    tensors = {}
    inputs = 1
    for index, (outputs, size) in enumerate(zip(CHANNELS, (3, *SIZES[rate], 3), strict=True)):
        bound = (6 / (inputs * size)) ** 0.5
        tensors |= {
            f"sequential.{index}.0.weight": uniform(-bound, bound, outputs, inputs, size),
            f"sequential.{index}.0.bias": uniform(-0.5, 0.5, outputs),
            f"sequential.{index}.1.weight": uniform(0.5, 1.5, outputs),
            f"sequential.{index}.1.bias": uniform(-0.3, 0.3, outputs),
            f"sequential.{index}.1.running_mean": uniform(-0.5, 0.5, outputs),
            f"sequential.{index}.1.running_var": uniform(0.3, 2.0, outputs),
            f"sequential.{index}.1.num_batches_tracked": np.array(7),
        }
        inputs = outputs
    return tensors


def linears(*sizes: int, seed: int, bias: bool = True) -> dict[str, np.ndarray]:
    """`0.weight`, `0.bias`, `2.weight`, ... as of `torch.nn.Sequential` with a ReLU between two linear layers."""
    generator = np.random.default_rng(seed)
    tensors = {}
    for place, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        tensors[f"{2 * place}.weight"] = generator.uniform(-0.1, 0.1, (outputs, inputs)).astype(np.float32)
        if bias:
            tensors[f"{2 * place}.bias"] = generator.uniform(-0.5, 0.5, outputs).astype(np.float32)
    return tensors


def projector() -> dict[str, np.ndarray]:
    return linears(512, 512, PROJECTION_DIM, seed=6, bias=False)


def linear_head() -> dict[str, np.ndarray]:
    return linears(512, NUM_TAGS, seed=7)


def mlp_head() -> dict[str, np.ndarray]:
    return linears(512, 512, NUM_TAGS, seed=8)


def prefixed(prefix: str, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}{key}": tensor for key, tensor in tensors.items()}


def old_names(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`sequential.0.` as `conv1.`, and so on."""

    def old(key: str) -> str:
        _, index, rest = key.split(".", 2)
        return f"conv{int(index) + 1}.{rest}"

    return {old(key): tensor for key, tensor in tensors.items()}
