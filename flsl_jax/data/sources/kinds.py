"""What a folder or a file is: a folder of images, a list of them, shards, and so on."""

import logging
import os

from flsl_jax.data.images.listing import IMAGE_SUFFIXES, begins_as_dicom, list_images
from flsl_jax.data.sources.hugging_face import is_saved
from flsl_jax.data.sources.list_files import LIST_SUFFIXES
from flsl_jax.data.sources.shards import MANIFEST_NAME
from flsl_jax.errors import UserError

log = logging.getLogger(__name__)

# What `root` is of each kind of source that has one.
ROOT_OF = {
    "folder": "folder that holds the images",
    "list": "file that lists the images",
    "video": "video file, or the folder of video files",
    "tar": "tar file, or the folder of tar files, that holds the images",
    "huggingface": "folder that save_to_disk wrote",
    "shards": "folder that python -m flsl_jax.prepare wrote",
    "auto": "folder or file of the images",
}
# What a folder without images may be instead, for people.
OTHER_KINDS = {
    "shards": "shards of python -m flsl_jax.prepare",
    "list": "a list of images",
    "tar": "tar files",
    "video": "video files",
    "huggingface": "a data set that save_to_disk wrote",
}
VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp",
)  # fmt: skip
# Endings of tar files, and of packed ones, which are refused by name.
TAR_SUFFIXES = (
    ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst", ".tar.lz4",
)  # fmt: skip


def kind_of(root: str, *, other: str = "") -> str:
    """The kind of source that a path is by its name and, of a folder, by the files in it: a key of `ROOT_OF`, or "image".

    A folder of which nothing else is known is a folder of images.

    Args:
        root: a path.
        other: what a file is whose name says nothing; empty: it is refused.

    Raises:
        UserError: it is such a file, or does not exist.
    """
    if os.path.isdir(root):
        if os.path.isfile(os.path.join(root, MANIFEST_NAME)):
            return "shards"
        return "huggingface" if is_saved(root) else _kind_below(root)
    if not os.path.exists(root):
        raise UserError(f"{root} cannot be read (No such file or directory); name a folder or a file of images")
    suffix = os.path.splitext(root)[1].lower()
    if suffix in LIST_SUFFIXES:
        return "list"
    if suffix in IMAGE_SUFFIXES:
        return "image"
    if root.lower().endswith(TAR_SUFFIXES):
        return "tar"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    if begins_as_dicom(root):
        return "image"
    if other:
        return other
    raise UserError(
        f"{root} is no image by its name ({' '.join(IMAGE_SUFFIXES)}), no list of images ({' '.join(LIST_SUFFIXES)}), "
        "no tar file and no video; name one of these, or a folder"
    )


def kind_read(root: str, name: str) -> str:
    """How a root is read for which a config says `name`.

    "auto" looks, and "folder" does where there is no folder of images: what else is there is read as what it is, and the log
    says so. Other names stay.

    Raises:
        UserError: as `kind_of`.
    """
    if name == "auto":
        return kind_of(root)
    if name != "folder" or not os.path.exists(root):
        return name
    found = kind_of(root, other=name)
    if found == name or (os.path.isdir(root) and list_images(root).paths):  # whatever else lies beside images
        return name
    log.info(
        "%s is read as %s (data.name=%s)",
        root,
        OTHER_KINDS.get(found, "an image"),
        found if found in ROOT_OF else "auto",
    )
    return found


def check_kind(root: str, kind: str) -> None:
    """Refuses a file that is of another kind by its name, or a folder in place of a list; what opens the rest says more.

    Raises:
        UserError: names the kind that it is.
    """
    if not (os.path.isfile(root) or (os.path.isdir(root) and kind == "list")):
        return
    found = kind_of(root, other=kind)
    if found != kind:
        what = {"image": "an image", "folder": "a folder of images"}.get(found) or f"of the kind {found} by its name"
        name = "auto" if found == "image" else found
        raise UserError(
            f"{root} is {what}, and name={kind} takes the {ROOT_OF[kind]}; set name={name}, or another root"
        )


def _kind_below(folder: str) -> str:
    """By the files in a folder: images come first, whatever else is there. The search ends at the first image."""
    found = ""
    for _, folders, names in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            lower = name.lower()
            if name.startswith("."):
                continue
            if lower.endswith(IMAGE_SUFFIXES):
                return "folder"
            if not found:
                found = "tar" if lower.endswith(TAR_SUFFIXES) else "video" if lower.endswith(VIDEO_SUFFIXES) else ""
    return found or "folder"
