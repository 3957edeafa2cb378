"""Where images come from."""

import dataclasses
from typing import Annotated, Literal

from flsl_jax.config.ranges import Range


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Where images come from.

    `name`: "folder" (`root`: any folder of images), "tfds" (`root`: the data_dir or empty, `dataset`: its name),
    "shards" (`root`: a folder written by `python -m flsl_jax.prepare`), "scenes" (embedded synthetic images: `count`
    of them, `scene_size` pixels high and wide). `scene_kind`: "hues", in which a class has a hue, a texture and a shape, or
    "textures", in which colour says nothing of the class and objects are at least half as wide as the image. `boxes`: COCO
    JSON file, or folder of VOC XML files, for evaluation. `limit` > 0 keeps only the first `limit` records.
    """

    name: Literal["folder", "tfds", "shards", "scenes"] = "folder"
    root: str = ""
    dataset: str = ""
    split: str = "train"
    boxes: str = ""
    count: Annotated[int, Range(0, unit="images")] = 0
    scene_size: Annotated[int, Range(0, unit="pixels")] = 0
    scene_kind: Literal["hues", "textures"] = "hues"
    limit: Annotated[int, Range(0, unit="records; 0: all")] = 0
    on_corrupt: Literal["replace", "fail"] = "replace"


def describe_source(data: SourceConfig) -> str:
    """Where the images come from, for people; keys that this kind of source does not read are left out."""
    if data.name == "scenes":
        count = min(data.count, data.limit or data.count)
        kind = "" if data.scene_kind == "hues" else f" ({data.scene_kind})"
        return f"{count:,} synthetic scenes of {data.scene_size} px{kind}"
    named = {"tfds": f"tfds {data.dataset}, split {data.split}", "shards": f"shards in {data.root}"}
    limit = f", the first {data.limit:,} images" if data.limit else ""
    return named.get(data.name, f"folder {data.root}") + limit


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedSourceConfig:
    """Where images with segmentation masks come from.

    `name`: "folder" (`images`: a folder, `masks`: a folder with a PNG of class ids for each image, of the same relative
    name), "panoptic" (`masks`: a folder of COCO panoptic PNGs, `annotations`: their JSON), "scenes" (embedded synthetic
    images: `count` of them, `scene_size` pixels high and wide, of `split` and `scene_kind`). `classes`: a file that names the
    ids (JSON, or ADE20K's objectInfo150.txt); empty: ids 0 to 255 are classes. `names`: a text file that lists the images to
    use, such as VOC's ImageSets/Segmentation/val.txt; empty: all. `ignore`: ids that count nowhere, 0 for ADE20K and 255 for
    VOC. `limit` > 0 keeps only the first `limit` images.
    """

    name: Literal["folder", "panoptic", "scenes"] = "folder"
    images: str = ""
    masks: str = ""
    annotations: str = ""
    classes: str = ""
    names: str = ""
    ignore: Annotated[tuple[int, ...], Range(0, unit="class ids")] = (255,)
    split: str = "train"
    count: Annotated[int, Range(0, unit="images")] = 0
    scene_size: Annotated[int, Range(0, unit="pixels")] = 0
    scene_kind: Literal["hues", "textures"] = "hues"
    limit: Annotated[int, Range(0, unit="images; 0: all")] = 0
