"""Features of boxed objects on disk: written once, whole or not at all, and read back for the same model and protocol."""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from flsl_jax.errors import UserError
from flsl_jax.evaluation.box_features import BoxFeatures, FeaturePart
from flsl_jax.evaluation.encoder import Encoder

_MANIFEST = "manifest.json"
# Tokens of one model on one picture differ by rounding alone; this is the largest relative distance that is taken for it.
_SAME = 1e-3


class FeatureFiles:
    """A folder with `manifest.json` and, for each split, `SPLIT-PART-{tokens,modes,labels}.npy`.

    Raises:
        UserError: the folder exists and holds something else.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = Path(folder)
        if self._folder.exists() and not self.complete:
            raise UserError(f"{folder} exists and holds no features (no {_MANIFEST}); name a new folder")

    @property
    def complete(self) -> bool:
        """Whether there are features to read."""
        return (self._folder / _MANIFEST).is_file()

    def write(
        self,
        encoder: Encoder,
        protocol: Mapping[str, Any],
        splits: Mapping[str, tuple[tuple[str, ...], Iterable[FeaturePart]]],
    ) -> None:
        """Writes the class names and parts of every split, one part at a time, into a folder that gets its name at the end.

        Args:
            encoder: whose features they are.
            protocol: every value that the features depend on, plain JSON.
            splits: class names and parts by the split's name; parts are encoded while they are written.

        Raises:
            UserError: the folder cannot be written.
        """
        temporary = self._folder.with_name(self._folder.name + ".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            counts = {name: _write_parts(temporary, name, parts) for name, (_, parts) in splits.items()}
            manifest = {
                "model": encoder.name,
                "protocol": dict(protocol),
                "parts": counts,
                "class_names": {name: list(class_names) for name, (class_names, _) in splits.items()},
                "probe": probe_of(encoder).tolist(),
            }
            (temporary / _MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
            os.rename(temporary, self._folder)
        except OSError as error:
            raise UserError(
                f"features {self._folder} cannot be written ({error.strerror}); name a folder that can"
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def read(self, encoder: Encoder, protocol: Mapping[str, Any]) -> dict[str, BoxFeatures]:
        """The splits by name; their arrays are read from disk as they are used.

        Raises:
            UserError: the features are of another protocol or another model, or a file is missing.
        """
        try:
            manifest = json.loads((self._folder / _MANIFEST).read_text())
            self._check(manifest, encoder, protocol)
            return {
                name: BoxFeatures.gather(
                    (_read_part(self._folder / f"{name}-{number:05d}", manifest) for number in range(count)),
                    class_names=tuple(manifest["class_names"][name]),
                )
                for name, count in manifest["parts"].items()
            }
        except (OSError, ValueError, KeyError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"features {self._folder} cannot be read ({error}); delete the folder") from error

    def _check(self, manifest: Mapping[str, Any], encoder: Encoder, protocol: Mapping[str, Any]) -> None:
        stored = manifest["protocol"]
        wrong = [
            f"{key} {stored.get(key)!r} instead of {value!r}"
            for key, value in protocol.items()
            if stored.get(key) != value
        ]
        if wrong:
            raise UserError(f"features {self._folder} were made with {'; '.join(wrong)}; name another folder")
        if not same_probe(np.asarray(manifest["probe"], np.float32), probe_of(encoder)):
            raise UserError(
                f"features {self._folder} are of another model than {encoder.name} (of {manifest['model']}, or of the same "
                "at another step or precision); name another folder"
            )


def probe_of(encoder: Encoder) -> np.ndarray:
    """What tells models apart: the tokens of one small picture of noise."""
    side = 4 * encoder.patch_size
    picture = np.random.default_rng(0).integers(0, 256, (1, side, side, encoder.decoding.channels), dtype=np.uint8)
    return np.asarray(encoder.tokens(picture), np.float32).reshape(16, -1)


def same_probe(probe: np.ndarray, expected: np.ndarray) -> bool:
    """Whether two probes are of one model, up to rounding."""
    return probe.shape == expected.shape and bool(np.linalg.norm(probe - expected) <= _SAME * np.linalg.norm(expected))


def _write_parts(folder: Path, split: str, parts: Iterable[FeaturePart]) -> int:
    count = 0
    for part in parts:
        for name in ("tokens", "modes", "labels"):
            array = getattr(part, name)
            if array is not None:
                np.save(folder / f"{split}-{count:05d}-{name}.npy", array)
        count += 1
    return count


def _read_part(path: Path, manifest: Mapping[str, Any]) -> FeaturePart:
    # NumPy's files hold bfloat16 as items of two bytes without a type.
    dtype = jnp.dtype(manifest["protocol"]["bank_dtype"])
    modes = (
        None if manifest["protocol"]["inv_temp"] is None else np.load(f"{path}-modes.npy", mmap_mode="r").view(dtype)
    )
    tokens = np.load(f"{path}-tokens.npy", mmap_mode="r").view(dtype)
    return FeaturePart(tokens=tokens, modes=modes, labels=np.load(f"{path}-labels.npy"))
