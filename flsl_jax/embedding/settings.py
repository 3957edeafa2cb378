"""What is embedded, and how it is written."""

import dataclasses
from typing import Any

from flsl_jax.errors import UserError

FEATURES = {
    "mean": "one vector for each image: the mean of its tokens, each weighted by how much of its patch is image",
    "patch": "one vector for each patch: its token",
    "mode": "one vector for each patch: the mode that the mean shift moves its token to",
    "cluster": "the mean-shift clusters of each image: which patches are in one, and the mean of their tokens",
}
FILE_FORMATS = {
    "npz": "shard-00000.npz holds all arrays of a shard",
    "npy": "mean-00000.npy and so on: an array each, which NumPy can map into memory",
    "parquet": "tables images-00000.parquet, patches-… and clusters-…; needs pyarrow",
    "csv": "the same tables as text, a column for each channel; large and slow for patches",
}
DTYPES = ("float32", "float16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbedSettings:
    """Everything that the files depend on, apart from the model and the images.

    Attributes:
        features: names of `FEATURES`.
        format: a name of `FILE_FORMATS`.
        size: shorter side in pixels, or side of the crop; 0: as in the model's training.
        crop: whether the central square is taken instead of the whole image.
        dtype: "float32" or "float16", of the vectors.
        shard_images: images in a shard.
        inv_temp: τ of modes, a factor of products of tokens; 0: as in the model's training.
        cluster_inv_temp, mode_similarity: see `mode_clusters`.

    Raises:
        UserError: a value is not one of these.
    """

    features: tuple[str, ...] = ("mean",)
    format: str = "npz"
    size: int = 0
    crop: bool = False
    dtype: str = "float32"
    shard_images: int = 1024
    inv_temp: float = 0.0
    cluster_inv_temp: float = 1.0
    mode_similarity: float = 0.8

    def __post_init__(self) -> None:
        if not self.features:
            raise UserError(f"--features is empty; name one or more of {', '.join(FEATURES)}")
        for name in self.features:
            _check("--features", name, FEATURES)
        _check("--format", self.format, FILE_FORMATS)
        _check("--dtype", self.dtype, DTYPES)

    @property
    def of_patches(self) -> bool:
        """Whether something is written for each patch."""
        return bool({"patch", "mode", "cluster"} & set(self.features))


def _check(flag: str, value: str, known: Any) -> None:
    if value not in known:
        raise UserError(f"{flag} has {value!r}; expected {', '.join(known)}")
