"""Where images come from."""

import dataclasses
from typing import Annotated, Literal

from flsl_jax.config.parsing import SEVERAL
from flsl_jax.config.ranges import Range

# Bands that a network may see.
MOST_CHANNELS = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Where images come from; docs/data.md has the layouts.

    Attributes:
        name: "folder": any folder of images, or where there is none, what else the root is; "list": a file that lists images
            (.txt, .csv, .tsv, .jsonl); "tar": tar files that stay packed, as WebDataset writes them; "video": frames of video
            files; "huggingface": a data set that `save_to_disk` wrote; "tfds": a prepared TensorFlow data set; "shards": a
            folder written by `python -m flsl_jax.prepare`; "scenes": embedded synthetic images; "auto": each root by what it
            is.
        root: the folder or file, or several with commas between them; for "tfds" the data_dir, which may be empty.
        dataset: the name of a "tfds" data set.
        split: the part of a "tfds" or "huggingface" data set, or of "scenes": train, val or test.
        image_column: the column of a "list" with the path; empty: the one with a usual name, such as path or file_name. The
            column of a "huggingface" data set with the image; empty: the only one. Of a "tar" whose samples have several
            images, the ending of the one to use, such as jpg.
        label_column: the column of a "list" or "huggingface" data set with the class; empty: the one named label or class. Of a
            "tar", a key of its .json files; empty: .cls files.
        frame_stride: of how many frames of a "video" one is used.
        pages: of files that hold several images (TIFF, GIF, WebP, PNG, .npy, DICOM), the first one, or each as an image of its
            own.
        boxes: a COCO JSON file, or a folder of VOC XML files, for evaluation.
        count: the number of "scenes".
        scene_size: their height and width.
        scene_kind: "hues", in which a class has a hue, a texture and a shape, or "textures", in which colour says nothing of
            the class and objects are at least half as wide as the image.
        limit: only the first so many are used.
        on_corrupt: whether a file that cannot be read is named in the log and replaced by another, or ends the run.
        max_corrupt_share: training ends when more than this share of the images that it asked for, and more than 20 of them,
            could not be read and were replaced; 1: never.
    """

    name: Literal["folder", "list", "tar", "video", "huggingface", "tfds", "shards", "scenes", "auto"] = "folder"
    root: str = dataclasses.field(default="", metadata=SEVERAL)
    dataset: str = ""
    split: str = "train"
    image_column: str = ""
    label_column: str = ""
    frame_stride: Annotated[int, Range(1, unit="frames")] = 1
    pages: Literal["first", "all"] = "first"
    boxes: str = ""
    count: Annotated[int, Range(0, unit="images")] = 0
    scene_size: Annotated[int, Range(0, unit="pixels")] = 0
    scene_kind: Literal["hues", "textures"] = "hues"
    limit: Annotated[int, Range(0, unit="records; 0: all")] = 0
    on_corrupt: Literal["replace", "fail"] = "replace"
    max_corrupt_share: Annotated[float, Range(0, 1, unit="share of the images")] = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingImagesConfig(SourceConfig):
    """The images to train on, and how many bands of them the network sees; docs/data.md, "Bands and levels".

    What is measured or computed with a network later reads its images as the network was trained.

    Attributes:
        channels: bands of an image: 3 for colour, 1 for grey, more for other sensors. `views.mean` and `views.std` have so many
            numbers. Files with another number are refused, but for grey ones with 3 channels and colour with 1.
        window: of files with more than 8 bits, the two values that become black and white, such as 0,4095; "auto": those of a
            sample of the images when the run begins; "": 0 and 65535.
    """

    channels: Annotated[int, Range(1, MOST_CHANNELS, unit="channels")] = 3
    window: str = dataclasses.field(default="", metadata=SEVERAL)


def describe_source(data: SourceConfig) -> str:
    """Where the images come from, for people; keys that this kind of source does not read are left out."""
    if data.name == "scenes":
        count = min(data.count, data.limit or data.count)
        kind = "" if data.scene_kind == "hues" else f" ({data.scene_kind})"
        return f"{count:,} synthetic scenes of {data.scene_size} px{kind}"
    stride = f", every {data.frame_stride}th" if data.frame_stride > 1 else ""
    named = {
        "list": f"the list {data.root}",
        "tar": f"tar files of {data.root}",
        "video": f"frames of {data.root}{stride}",
        "huggingface": f"huggingface {data.root}, split {data.split}",
        "tfds": f"tfds {data.dataset}, split {data.split}",
        "shards": f"shards in {data.root}",
        "auto": data.root,
    }
    limit = f", the first {data.limit:,} images" if data.limit else ""
    return named.get(data.name, f"folder {data.root}") + limit


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskedSourceConfig:
    """Where images with segmentation masks come from; docs/data.md has the layouts.

    Attributes:
        name: "folder": a PNG of class ids for each image, of the same relative name; "panoptic": COCO panoptic PNGs;
            "cityscapes": Cityscapes' folders, such as leftImg8bit/val and gtFine/val; "scenes": embedded synthetic images.
        images: the folder of the images.
        masks: the folder of the masks.
        annotations: the JSON file of "panoptic".
        classes: a file that names the ids (JSON, or ADE20K's objectInfo150.txt), or a known set: cocostuff27, cityscapes27,
            cityscapes19; empty: ids 0 to 255 are classes, of "cityscapes" the 19.
        names: a text file that lists the images to use, such as VOC's ImageSets/Segmentation/val.txt; empty: all.
        ignore: ids that count nowhere, 0 for ADE20K and 255 for VOC.
        split: the part of "scenes": train, val or test.
        count: the number of "scenes".
        scene_size: their height and width.
        scene_kind: see `SourceConfig`.
        limit: only the first so many are used.
    """

    name: Literal["folder", "panoptic", "cityscapes", "scenes"] = "folder"
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class KeypointSourceConfig:
    """Where pairs of images with the same key points come from; docs/data.md has the layout.

    Attributes:
        name: "spair": files in the layout of SPair-71k; "scenes": pairs of embedded synthetic images that show one class.
        root: the folder of "spair", with JPEGImages, PairAnnotation and Layout in it.
        split: train, val or test; "spair" calls the first one trn.
        layout: which list of pairs of "spair" is used, Layout/LAYOUT/SPLIT.txt; empty: every file in PairAnnotation/SPLIT.
        categories: only pairs of these; empty: all.
        count: the number of "scenes".
        scene_size: their height and width.
        scene_kind: see `SourceConfig`.
        limit: only the first so many pairs of each category.
    """

    name: Literal["spair", "scenes"] = "spair"
    root: str = ""
    split: str = "test"
    layout: str = "large"
    categories: tuple[str, ...] = ()
    count: Annotated[int, Range(0, unit="images")] = 0
    scene_size: Annotated[int, Range(0, unit="pixels")] = 0
    scene_kind: Literal["hues", "textures"] = "hues"
    limit: Annotated[int, Range(0, unit="pairs of a category; 0: all")] = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DepthSourceConfig:
    """Where images with depth maps come from; docs/data.md has the layouts.

    Attributes:
        name: "folder": a depth file for each image; "scenes": embedded synthetic images.
        images: the folder of the images.
        depths: the folder of the depth files: PNG of 16 bits, float TIFF, .npy or .npz; may be the folder of the images.
        names: a text file with an image and its depth file a line, such as NYUv2's nyu_test.txt; empty: files whose relative
            names are equal up to the suffix.
        scale: how many of the whole numbers in a file are a metre; numbers with a fraction are metres.
        split: the part of "scenes": train, val or test.
        count: the number of "scenes".
        scene_size: their height and width.
        scene_kind: see `SourceConfig`.
        limit: only the first so many are used.
    """

    name: Literal["folder", "scenes"] = "folder"
    images: str = ""
    depths: str = ""
    names: str = ""
    scale: Annotated[float, Range(0, above=True, unit="whole numbers a metre")] = 1000.0
    split: str = "train"
    count: Annotated[int, Range(0, unit="images")] = 0
    scene_size: Annotated[int, Range(0, unit="pixels")] = 0
    scene_kind: Literal["hues", "textures"] = "hues"
    limit: Annotated[int, Range(0, unit="images; 0: all")] = 0
