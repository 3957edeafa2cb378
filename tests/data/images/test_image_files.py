"""What is read of an image file, and how its EXIF orientation turns its size."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flsl_jax.data.images.image_files import open_image, upright_size
from flsl_jax.errors import UserError


def _saved(path: Path, *, orientation: int | None = None) -> Path:
    image = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3))
    exif = image.getexif()
    if orientation is not None:
        exif[0x0112] = orientation
    image.save(path, exif=exif)
    return path


@pytest.mark.parametrize(("orientation", "size"), [(None, (5, 4)), (3, (5, 4)), (6, (4, 5)), (99, (5, 4))])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_the_size_is_that_of_the_upright_image(tmp_path: Path, suffix, orientation, size) -> None:
    assert upright_size(_saved(tmp_path / f"a.{suffix}", orientation=orientation)) == size


def test_pixels_are_read_only_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-200])
    assert open_image(path).size == (40, 40)
    with pytest.raises(UserError, match=r"a\.png cannot be read \(.+\); repair or replace it"):
        open_image(path, pixels=True)


def test_a_missing_file_is_named_with_the_systems_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.png cannot be read \(No such file or directory\)"):
        open_image(tmp_path / "nowhere.png")
