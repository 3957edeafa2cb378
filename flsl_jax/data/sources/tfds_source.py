"""A TensorFlow Datasets data set, read by random access and without TensorFlow."""

import io
from typing import Any

import numpy as np

from flsl_jax.data.boxes import Boxes
from flsl_jax.data.images.decode import DecodeError, open_with_pillow
from flsl_jax.data.records import Record, checked_index, digest_of
from flsl_jax.errors import UserError, first_line


class TfdsSource:
    """One split of a prepared tfds data set, read through tfds's random-access data sources; images stay encoded.

    The image is the feature "image". The label, if there is one, is "label". Boxes, if there are any, are "objects" with
    "bbox" (relative, as in coco and voc) and "label".

    Args:
        dataset: name, as in `tfds.builder`: "imagenet2012", "coco/2017".
        split: split, as in tfds: "train", "train[:1%]".
        data_dir: where the data set was prepared; empty for tfds's own default folder.

    Raises:
        UserError: the data set is unknown, is not prepared, was prepared in a format without random access, or has no images.
    """

    def __init__(self, dataset: str, *, split: str, data_dir: str = "") -> None:
        if not dataset:
            raise UserError("config.data.dataset is empty; name a tfds data set, such as imagenet2012")
        self.name = f"tfds {dataset} {split}"
        self._arguments = (dataset, split, data_dir)
        info, self._source = _open(dataset, split=split, data_dir=data_dir)
        features, self._full_name = info.features, info.full_name
        objects = getattr(features["objects"], "feature", {}) if "objects" in features else {}
        self._boxes = "bbox" in objects
        labelled = objects if self._boxes else features
        self.class_names = tuple(getattr(labelled["label"], "names", None) or ()) if "label" in labelled else ()

    @property
    def digest(self) -> str:
        """Of the name with its version, the split and the count; the records are not read."""
        return digest_of(self._full_name, self._arguments[1], str(len(self)))

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        index = checked_index(index, len(self))
        name = f"{self.name}[{index}]"
        try:
            example = self._source[index]
        except Exception as error:  # the readers of damaged shards raise several types
            raise DecodeError(f"{name} is damaged ({first_line(error)})") from error
        label = example.get("label")
        return Record(
            image=example["image"],
            name=name,
            label=None if label is None else int(label),
            boxes=_boxes(example, name=name) if self._boxes else None,
        )

    def __getstate__(self) -> tuple[str, str, str]:
        return self._arguments

    def __setstate__(self, arguments: tuple[str, str, str]) -> None:
        dataset, split, data_dir = arguments
        self.__init__(dataset, split=split, data_dir=data_dir)


def _open(dataset: str, *, split: str, data_dir: str) -> tuple[Any, Any]:
    """(the data set's description, data source)."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise UserError(
            f"config.data.name=tfds needs tensorflow_datasets ({error}); pip install tensorflow-datasets"
        ) from error

    where = data_dir or "tfds's default folder"
    try:
        builder: Any = tfds.builder(dataset, data_dir=data_dir or None, try_gcs=False)
        features = builder.info.features
        if features is not None and "image" not in features:
            raise UserError(f"tfds {dataset} has no feature named image, only {', '.join(features)}; name another one")
        source = builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    except UserError:
        raise
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(
            f"tfds knows no data set {dataset!r} and {where} holds none; check config.data.dataset"
        ) from error
    except Exception as error:  # tfds reports a missing preparation by several exception types
        raise UserError(
            f"tfds {dataset}, split {split}, cannot be read by random access from {where} ({first_line(error)}); prepare it "
            f"with: tfds build {dataset} --file_format=array_record" + (f" --data_dir={data_dir}" if data_dir else "")
        ) from error
    return builder.info, source


def _boxes(example: dict[str, Any], *, name: str) -> Boxes:
    """The example's boxes in pixels; tfds has them as shares of the image: (top, left, bottom, right)."""
    try:
        with open_with_pillow(io.BytesIO(example["image"])) as image:
            width, height = image.size
    except Exception as error:  # Pillow's readers raise nearly every built-in exception on damaged files
        raise DecodeError(f"{name}: {error}") from error
    relative = np.asarray(example["objects"]["bbox"], np.float32).reshape(-1, 4)
    scale = np.array([width, height, width, height], np.float32)
    labels = example["objects"].get("label", np.zeros(len(relative)))
    return Boxes(xyxy=relative[:, [1, 0, 3, 2]] * scale, labels=np.asarray(labels, np.int64).reshape(-1))
