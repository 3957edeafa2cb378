"""How far TF32 and bfloat16 factors are from float32 ones in mean shift and in the head's last layer.

    python -m benchmarks.precision

A GPU rounds the factors of a float32 product to TF32 (10 bits of mantissa), a TPU to bfloat16 (7 bits), unless a precision is
named; the sums are float32. Both are imitated here in NumPy and compared with float64, at the sizes and temperatures of
`configs/vits16.py`, for tokens after LayerNorm in four groups and for queries near a centroid.
"""

from collections.abc import Callable, Sequence

import numpy as np
from absl import app

_BITS = {"float32": 23, "TF32": 10, "bfloat16": 7}
_TOKENS, _QUERIES, _WIDTH, _BOTTLENECK, _CENTROIDS = 196, 49, 384, 256, 4096
_INV_TEMP, _TEACHER_TEMP = 0.1 / 384**0.5, 0.04

Product = Callable[[np.ndarray, np.ndarray], np.ndarray]


def main(arguments: Sequence[str]) -> None:
    """Prints the largest errors."""
    if len(arguments) > 1:
        raise app.UsageError(f"unexpected argument {arguments[1]!r}")
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(4, _WIDTH))[rng.integers(0, 4, _TOKENS)] + rng.normal(size=(_TOKENS, _WIDTH))
    tokens = (tokens - tokens.mean(axis=-1, keepdims=True)) / tokens.std(axis=-1, keepdims=True)
    centroids = unit(rng.normal(size=(_CENTROIDS, _BOTTLENECK)))
    queries = unit(0.3 * unit(rng.normal(size=(_QUERIES, _BOTTLENECK))) + 0.95 * centroids[:_QUERIES])
    exact_modes = modes(tokens, np.matmul)
    exact_probs = softmax(queries @ centroids.T / _TEACHER_TEMP)
    print("factors: largest error of a mode over its length, of a probability over itself")
    for name, bits in _BITS.items():
        multiply = product_in(bits)
        of_modes = np.linalg.norm(modes(tokens, multiply) - exact_modes, axis=-1) / np.linalg.norm(exact_modes, axis=-1)
        probs = softmax(multiply(queries, centroids.T) / _TEACHER_TEMP)
        print(f"  {name:<10}{of_modes.max():.2g}  {np.max(np.abs(probs - exact_probs) / exact_probs):.2g}")


def modes(tokens: np.ndarray, multiply: Product) -> np.ndarray:
    """Of the first tokens, by one mean-shift step."""
    return multiply(softmax(_INV_TEMP * multiply(tokens[:_QUERIES], tokens.T)), tokens)


def product_in(bits: int) -> Product:
    """A product whose factors have so many bits of mantissa, with float32 sums."""
    return lambda left, right: rounded(left, bits) @ rounded(right, bits)


def rounded(x: np.ndarray, bits: int) -> np.ndarray:
    """To the nearest float32 number of so many bits of mantissa; ties go to the even one."""
    x = np.asarray(x, np.float32)
    if bits == 23:
        return x
    dropped = 23 - bits
    words = x.view(np.uint32).astype(np.uint64)
    words += (1 << (dropped - 1)) - 1 + ((words >> dropped) & 1)
    return (words >> dropped << dropped).astype(np.uint32).view(np.float32)


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis, in the dtype of x."""
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


if __name__ == "__main__":
    app.run(main)
