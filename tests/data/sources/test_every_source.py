"""Sources of every kind, as training reads them: by workers that are started anew, from any step, the same images."""

import dataclasses
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flsl_jax.config import SourceConfig
from flsl_jax.data.loading.pipeline import Loader
from flsl_jax.data.records import Source
from flsl_jax.data.sources.opening import open_any, open_source


def _photos(folder: Path, *, count: int) -> list[str]:
    rng, names = np.random.default_rng(0), []
    for number in range(count):
        name = f"{'cat' if number % 2 else 'dog'}/{number:02d}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20 + number, 24, 3), np.uint8)).save(folder / name)
        names.append(name)
    return names


def _roots(folder: Path) -> str:
    """A folder, a list and a tar file of different images."""
    names = _photos(folder / "photos", count=6)
    (folder / "photos" / "list.csv").write_text("path,label\n" + "".join(f"{name},{name[:3]}\n" for name in names[:3]))
    with tarfile.open(folder / "photos.tar", "w") as archive:
        archive.add(folder / "photos" / "dog", arcname="dog")
    return f"{folder}/photos,{folder}/photos/list.csv,{folder}/photos.tar"


def _images(source: Source, *, workers: int, start: int, steps: int) -> list[np.ndarray]:
    loader = Loader(
        source, batch_size=4, crop_size=8, seed=3, area=(0.5, 1.0), aspect=(0.8, 1.25), workers=workers, patience=60.0
    )
    batches = loader.batches(start, steps)
    found = [batch.images for batch in batches]
    batches.close()
    assert loader.corrupt_count == 0
    return found


def test_workers_and_a_later_start_give_the_same_images(tmp_path: Path) -> None:
    source = open_any(_roots(tmp_path))
    whole = _images(source, workers=0, start=0, steps=5)
    np.testing.assert_array_equal(_images(source, workers=0, start=3, steps=2), whole[3:])
    np.testing.assert_array_equal(_images(open_any(_roots(tmp_path)), workers=2, start=1, steps=4), whole[1:])


@pytest.mark.parametrize(("name", "root"), [("list", "photos/list.csv"), ("tar", "photos.tar"), ("folder", "photos")])
def test_a_kind_that_is_named_is_the_one_that_is_found(name: str, root: str, tmp_path: Path) -> None:
    _roots(tmp_path)
    config = SourceConfig(name=name, root=f"{tmp_path}/{root}")  # type: ignore[arg-type]
    named, found = open_source(config), open_source(dataclasses.replace(config, name="auto"))
    assert (len(named), named.digest, named.class_names) == (len(found), found.digest, found.class_names)
    buffer = io.BytesIO(named[0].image)
    assert Image.open(buffer).size[0] == 24
