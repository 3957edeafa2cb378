"""Frames of video files as a data set, each found by its time, in any order."""

import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from flsl_jax.data.images.listing import Listing
from flsl_jax.data.records import Record, checked_index, digest_of
from flsl_jax.data.sources.clips import BrokenClip, ClipIndex, Decoder, require_av
from flsl_jax.data.sources.files import classes_of_folders
from flsl_jax.data.sources.kinds import VIDEO_SUFFIXES
from flsl_jax.errors import UserError, one_line

# So many files are read for their frames' times at once.
_THREADS = 4


class ClipSource:
    """Every `frame_stride`-th frame of video files, clip after clip, as decoded pixels; needs PyAV, the extra `video`.

    A frame is found by its time, so it is the same whatever was read before, at any frame rate, constant or not. A name is the
    clip's path below `root` and the number of the frame from 0: `trip/day1.mp4/000120`. Clips in one folder a class have its
    label, as images have.

    Args:
        root: a video file, or a folder of them at any depth.
        frame_stride: of how many frames one is used, the first of each clip among them.
        on_corrupt: "fail" refuses a clip that cannot be read; else it is passed over, and named in the log.
        fewest_classes: see `FolderSource`.

    Raises:
        UserError: PyAV is not installed, there is no video, or none that can be read.
    """

    def __init__(
        self, root: str, *, frame_stride: int = 1, on_corrupt: str = "replace", fewest_classes: int = 2
    ) -> None:
        require_av()
        self.name, self._stride = root, frame_stride
        paths = clip_files(root)
        folder = root if os.path.isdir(root) else os.path.dirname(root)
        indices = _indices([os.path.join(folder, path) for path in paths])
        broken = tuple(
            (one_line(path), str(index)) for path, index in zip(paths, indices) if isinstance(index, BrokenClip)
        )
        if broken and (on_corrupt == "fail" or len(broken) == len(paths)):
            name, why = broken[0]
            raise UserError(
                f"{os.path.join(folder, name)} cannot be read ({why}; {len(broken)} of {len(paths)} such); repair or remove it"
                + ("" if len(broken) == len(paths) else ", or set on_corrupt=replace to pass over what cannot be read")
            )
        kept = [(path, index) for path, index in zip(paths, indices) if isinstance(index, ClipIndex)]
        self._folder, self._clips = os.path.abspath(folder), tuple(path for path, _ in kept)
        self._indices = tuple(index for _, index in kept)
        counts = [-(-len(index.times) // frame_stride) for index in self._indices]
        self._ends = np.cumsum(counts, dtype=np.int64)
        names = [os.fsencode(path) for path in self._clips]
        self.class_names, self._labels = classes_of_folders(names, fewest=fewest_classes)
        formats = Counter[str]()
        for path, count in zip(self._clips, counts):
            formats[f"{os.path.splitext(path)[1][1:].upper()} frames"] += count
        self.listing = Listing(paths=[], formats=formats, others=Counter(), hidden=0, unusable=broken)
        self._decoder: tuple[int, Decoder] | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def digest(self) -> str:
        """Of the clips' paths, how many frames each has, and the stride; pixels are not read."""
        frames = [f"{path}\0{len(index.times)}" for path, index in zip(self._clips, self._indices)]
        return digest_of("video", str(self._stride), *map(os.fsencode, frames))

    def path(self, index: int) -> str:
        """The clip's path below the root, and the number of the frame in it."""
        clip, number = self._place(index)
        return f"{self._clips[clip]}/{number:06d}"

    def label(self, index: int) -> int | None:
        """The label of a frame's clip; None without labels."""
        return None if self._labels is None else int(self._labels[self._place(index)[0]])

    def __getitem__(self, index: int) -> Record:
        """One frame. Threads take turns.

        Raises:
            DecodeError: it cannot be decoded.
        """
        index = checked_index(index, len(self))
        clip, number = self._place(index)
        times = self._indices[clip].times
        with self._lock:
            if self._decoder is None or self._decoder[0] != clip:
                self._close()
                path = os.path.join(self._folder, self._clips[clip])
                self._decoder = clip, Decoder(path, self._indices[clip], kept=times[:: self._stride])
            pixels = self._decoder[1].frame(int(times[number]))
        return Record(image=pixels, name=self.path(index), label=self.label(index))

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_decoder", "_lock")}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._decoder, self._lock = None, threading.Lock()

    def _place(self, index: int) -> tuple[int, int]:
        """A record's clip, and the number of its frame there."""
        clip = int(np.searchsorted(self._ends, index, side="right"))
        before = int(self._ends[clip - 1]) if clip else 0
        return clip, (index - before) * self._stride

    def _close(self) -> None:
        if self._decoder is not None:
            self._decoder[1].close()


def clip_files(root: str) -> list[str]:
    """Relative paths of the video files below a folder, at any depth, sorted; or the name of one file.

    Raises:
        UserError: it does not exist, or the folder has none.
    """
    if not os.path.exists(root):
        raise UserError(f"{root} cannot be read (No such file or directory); name a video, or a folder of them")
    if not os.path.isdir(root):
        return [os.path.basename(root)]
    found = []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        shown = [name for name in names if name.lower().endswith(VIDEO_SUFFIXES) and not name.startswith(".")]
        found += [os.path.relpath(os.path.join(folder, name), root) for name in shown]
    if not found:
        raise UserError(
            f"{root} holds no video ({' '.join(VIDEO_SUFFIXES)}, at any depth); name one, or a folder of them"
        )
    return sorted(found)


def _indices(paths: list[str]) -> list[ClipIndex | BrokenClip]:
    """The times of the frames of each file, or why it cannot be used."""
    with ThreadPoolExecutor(_THREADS) as threads:
        found = threads.map(_index_or_why, paths)
        return list(tqdm(found, total=len(paths), desc="videos", unit="file", delay=2, disable=None))


def _index_or_why(path: str) -> ClipIndex | BrokenClip:
    try:
        return ClipIndex(path)
    except BrokenClip as error:
        return error
