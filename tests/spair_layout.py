"""Small data sets in the layout of SPair-71k."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def write_image(root: Path, category: str, name: str, pixels: np.ndarray) -> None:
    """One image, without loss in spite of its name."""
    path = root / "JPEGImages" / category / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG")


def write_pair(
    root: Path,
    number: int,
    *,
    category: str,
    images: tuple[str, str],
    points: tuple[Sequence[Any], Sequence[Any]],
    box: Sequence[float],
    size: tuple[int, int],
    split: str = "test",
    **changes: Any,
) -> Path:
    """One annotation of a pair, and its line in the list; `size` is the width and height of both images."""
    stem = f"{number:06d}-{Path(images[0]).stem}-{Path(images[1]).stem}:{category}"
    content = {
        "pair_id": number,
        "filename": stem,
        "category": category,
        "src_imname": images[0],
        "trg_imname": images[1],
        "src_imsize": [*size, 3],
        "trg_imsize": [*size, 3],
        "src_bndbox": list(box),
        "trg_bndbox": list(box),
        "src_kps": list(points[0]),
        "trg_kps": list(points[1]),
        "kps_ids": [str(place) for place in range(len(points[0]))],
        "mirror": 0,
        **changes,
    }
    path = root / "PairAnnotation" / split / f"{stem}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    listing = root / "Layout" / "large" / f"{split}.txt"
    listing.parent.mkdir(parents=True, exist_ok=True)
    with listing.open("a") as file:
        file.write(f"{stem}\n")
    return path


def two_categories(root: Path) -> Path:
    """Noise of 32 × 32 px: two cats and two cows, the second of each being the first one moved by (x 5, y 3) in a circle.

    Of the cats' four points, one is annotated 4 px beside its place; the cows have one point, at its place. Boxes are 20 px
    long, so that 2 px are right at alpha 0.1.
    """
    for seed, category in enumerate(("cat", "cow")):
        noise = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        write_image(root, category, "a.jpg", noise)
        write_image(root, category, "b.jpg", np.roll(noise, (3, 5), axis=(0, 1)))
    shared = {"images": ("a.jpg", "b.jpg"), "box": (4, 4, 24, 20), "size": (32, 32)}
    own, moved = [[2, 2], [10, 20], [26, 7], [8, 8]], [[7, 5], [15, 23], [31, 10], [13, 15]]
    write_pair(root, 1, category="cat", points=(own, moved), **shared)
    write_pair(root, 2, category="cow", points=([[9, 9]], [[14, 12]]), **shared)
    return root
