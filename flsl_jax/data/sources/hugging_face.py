"""A Hugging Face data set that was saved to disk, read by random access; its images stay encoded."""

import json
import os
from collections import Counter
from typing import Any

from flsl_jax.data.images.decode import DecodeError
from flsl_jax.data.images.listing import Listing, read_file
from flsl_jax.data.records import Record, checked_index, digest_of
from flsl_jax.data.sources.files import class_numbers
from flsl_jax.data.sources.list_files import LABEL_COLUMNS
from flsl_jax.errors import UserError, first_line, require_packages

_DICT, _STATE, _INFO = "dataset_dict.json", "state.json", "dataset_info.json"
# What others call the split "val".
_VALIDATION = ("validation", "valid", "dev")
_WORDS = ("string", "large_string", "bool")


class HuggingFaceSource:
    """A folder that `save_to_disk` of a `datasets.Dataset` or `DatasetDict` wrote; needs `datasets`, the extra `huggingface`.

    Args:
        root: the folder.
        split: which one of a `DatasetDict`; "val" stands for "validation" too. A `Dataset` has none.
        image_column: the column of the images; empty: the only one of type `Image`. A column of encoded bytes can be named.
        label_column: the column of the classes; empty: the only `ClassLabel`, or one with a usual name.

    Raises:
        UserError: `datasets` is not installed; the folder is no such data set or has no rows; there is no such split or column,
            or several columns could be meant.
    """

    def __init__(self, root: str, *, split: str = "train", image_column: str = "", label_column: str = "") -> None:
        require_packages("datasets", install="install the package with its extra huggingface, or pip install datasets")
        self.name = root
        chosen, others = _chosen(root, split)
        self._folder = os.path.abspath(chosen)
        rest = (f"the other splits ({', '.join(others)}; split={os.path.basename(chosen)} is read)",) if others else ()
        rows = _load(self._folder)
        if not len(rows):
            raise UserError(f"{self._folder} has no rows; name a data set with images")
        self._image = _image_column(rows.features, image_column, where=self._folder)
        self._label = _label_column(rows.features, label_column, where=self._folder)
        self._numbers: dict[str, int] | None = None
        self.class_names: tuple[str, ...] = ()
        if self._label:
            names = getattr(rows.features[self._label], "names", None)
            if names is None:
                names, _ = class_numbers([None if value is None else str(value) for value in rows.unique(self._label)])
                self._numbers = {name: number for number, name in enumerate(names)}
            self.class_names = tuple(names)
        self._rows = _prepared(rows, self._image, self._label)
        self.listing = Listing(
            paths=[], formats=Counter(rows=len(rows)), others=Counter(), hidden=0, unusable=(), remarks=rest
        )

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def digest(self) -> str:
        """Of the fingerprint that was saved with the data set, its length and the column of images; no row is read."""
        with open(os.path.join(self._folder, _STATE), encoding="utf-8") as file:
            fingerprint = str(json.load(file).get("_fingerprint"))
        return digest_of("huggingface", fingerprint, str(len(self)), self._image)

    def __getitem__(self, index: int) -> Record:
        """One image.

        Raises:
            DecodeError: the row has no image or cannot be read.
        """
        index = checked_index(index, len(self))
        try:
            row = self._rows[index]
        except Exception as error:  # Arrow's readers raise several types on damaged files
            raise DecodeError(f"{self.name}[{index}] is damaged ({first_line(error)})") from error
        image, path = row[self._image], None
        if isinstance(image, dict):
            image, path = image.get("bytes"), image.get("path")
        name = path or f"{os.path.basename(self._folder)}[{index}]"
        if image is None and path:
            image = read_file(path)
        if not image:
            raise DecodeError(f"{self.name}[{index}] has no image in column {self._image}")
        return Record(image=image, name=name, label=self._number(row.get(self._label)))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_rows"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._rows = _prepared(_load(self._folder), self._image, self._label)

    def _number(self, label: object) -> int | None:
        if label is None:
            return None
        if self._numbers is not None:
            return self._numbers[str(label)]
        number = int(label)  # type: ignore[call-overload]
        return number if number >= 0 else None  # -1 stands for a class that is not told


def is_saved(folder: str) -> bool:
    """Whether a folder is what `save_to_disk` writes, by the names of its files."""
    there = {name for name in (_DICT, _STATE, _INFO) if os.path.isfile(os.path.join(folder, name))}
    return _DICT in there or {_STATE, _INFO} <= there


def _chosen(root: str, split: str) -> tuple[str, list[str]]:
    """The folder of one data set; of a `DatasetDict`, that of the split, and the names of the others."""
    path = os.path.join(root, _DICT)
    if not os.path.isfile(path):
        if not is_saved(root):
            raise UserError(
                f"{root} is no data set that save_to_disk wrote; write one, which gives random access to what is streamed too: "
                f"datasets.load_dataset(NAME).save_to_disk({root!r})"
            )
        return root, []
    try:
        with open(path, encoding="utf-8") as file:
            splits = [str(name) for name in json.load(file)["splits"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}); save the data set again") from error
    names = [split, *(_VALIDATION if split == "val" else ())]
    found = next((name for name in names if name in splits), None)
    if found is None:
        raise UserError(f"{root} has no split {split}, only {', '.join(splits) or 'none'}; name one of them by split")
    return os.path.join(root, found), [name for name in splits if name != found]


def _load(folder: str) -> Any:
    import datasets

    try:
        rows = datasets.load_from_disk(folder)
    except Exception as error:  # a damaged folder gives nearly any exception
        raise UserError(f"{folder} cannot be read ({first_line(error)}); save the data set again") from error
    return rows.with_format(None)


def _prepared(rows: Any, image: str, label: str) -> Any:
    """The rows with nothing but image and label, images as bytes."""
    import datasets

    rows = rows.select_columns([image, label] if label else [image])
    if type(rows.features[image]).__name__ == "Image":
        rows = rows.cast_column(image, datasets.Image(decode=False))
    return rows


def _image_column(features: Any, wanted: str, *, where: str) -> str:
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    if wanted:
        dtype = getattr(features.get(wanted), "dtype", "")
        if kinds.get(wanted) == "Image" or dtype in ("binary", "large_binary"):
            return wanted
        has = f"is of type {kinds[wanted]}" if wanted in kinds else f"is not there, only {', '.join(kinds)}"
        raise UserError(f"{where}: column {wanted} {has}; name one of type Image, or of encoded bytes, by image_column")
    images = [name for name, kind in kinds.items() if kind == "Image"]
    if len(images) != 1:
        found = (
            f"several columns of images ({', '.join(images)})"
            if images
            else f"no column of images, only {', '.join(kinds)}"
        )
        raise UserError(f"{where} has {found}; name one by image_column")
    return images[0]


def _label_column(features: Any, wanted: str, *, where: str) -> str:
    """The column of the classes; empty if there is none."""
    fit = [
        name
        for name, feature in features.items()
        if type(feature).__name__ == "ClassLabel"
        or (type(feature).__name__ == "Value" and (feature.dtype in _WORDS or "int" in feature.dtype))
    ]
    if wanted:
        if wanted not in fit:
            raise UserError(
                f"{where}: column {wanted} is no class; name a column of classes, words or whole numbers by label_column"
            )
        return wanted
    classes = [name for name in fit if type(features[name]).__name__ == "ClassLabel"]
    usual = [name for name in LABEL_COLUMNS if name in fit]
    return next(iter([name for name in usual if name in classes] or (classes if len(classes) == 1 else usual)), "")
