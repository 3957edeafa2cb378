"""The frames of a video file: which there are, and each by its own time, whatever was read before it."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np

from flsl_jax.data.images.decode import DecodeError
from flsl_jax.data.images.listing import problem_of
from flsl_jax.errors import first_line, require_packages

# Frames that were decoded on the way to others are kept up to so many bytes: threads ask for neighbours in any order.
_KEPT_BYTES = 64 * 2**20
# The bit of a VP8 frame's first byte that says whether it is shown.
_VP8_SHOWN = 0x10
# FFmpeg's AV_DISPOSITION_ATTACHED_PIC.
_COVER = 0x400


class BrokenClip(Exception):
    """A file has no frames that can be found again. The message is why, without its name."""


def require_av() -> None:
    """Refuses in one line to go on without PyAV."""
    require_packages("av", install="install the package with its extra video, or pip install av")


class ClipIndex:
    """When the frames of a video file are shown. `times`: of all frames, ascending, in the stream's own unit; `keys`: of those
    from which decoding can begin.

    Args:
        path: the file; all of it is read once, and nothing decoded but its first frame.

    Raises:
        BrokenClip: it cannot be read, has no video, its frames have no times, or the first one cannot be decoded.
    """

    def __init__(self, path: str) -> None:
        problem = problem_of(path)
        if problem:
            raise BrokenClip(problem)
        times, keys = list[int](), list[int]()
        try:
            container, stream = _opened(path)
            with container:
                hides = stream.codec_context.name == "vp8"
                for packet in container.demux(stream):
                    if not packet.size or packet.is_discard or (hides and not bytes(packet)[0] & _VP8_SHOWN):
                        continue
                    if packet.pts is None:
                        raise BrokenClip("its frames have no times; write it anew: ffmpeg -i OLD -c copy NEW.mkv")
                    times.append(packet.pts)
                    if packet.is_keyframe:
                        keys.append(packet.pts)
        except (OSError, ValueError, LookupError, NotImplementedError) as error:  # what PyAV's errors derive from
            raise BrokenClip(_why(error)) from error
        self.times, self.keys = (np.unique(np.array(values, np.int64)) for values in (times, keys))
        if not len(self.times):
            raise BrokenClip("it has no frame")
        try:
            Decoder(path, self).frame(int(self.times[0]))
        except DecodeError as error:
            if len(self.times) == 1 or not len(self.keys):
                raise BrokenClip(str(error)) from error


class Decoder:
    """Reads frames of one video file. Calls come from one thread at a time.

    Args:
        path: the file.
        index: of it.
        kept: of the frames that are passed on the way, the times of those worth keeping; None: all.
    """

    def __init__(self, path: str, index: ClipIndex, *, kept: np.ndarray | None = None) -> None:
        self._path, self._index = path, index
        self._kept = index.times if kept is None else kept
        self._container: Any = None
        self._frames: Iterator[Any] = iter(())
        self._last: int | None = None
        self._recent = OrderedDict[int, Any]()

    def frame(self, time: int) -> np.ndarray:
        """The frame that is shown at one of the index's times: uint8 [H, W, 3] RGB, upright.

        Raises:
            DecodeError: it cannot be decoded.
        """
        try:
            found = self._recent.get(time)
            return _pixels(self._found(time) if found is None else found)
        except (OSError, ValueError, LookupError, NotImplementedError) as error:
            self.close()
            raise DecodeError(f"{self._path}: {_why(error)}") from error

    def close(self) -> None:
        """Closes the file; a later call opens it again."""
        if self._container is not None:
            self._container.close()
        self._container, self._frames, self._last = None, iter(()), None
        self._recent.clear()

    def _found(self, time: int) -> Any:
        """The frame, decoded from the nearest frame before it from which that can be done."""
        place = int(np.searchsorted(self._index.keys, time, side="right")) - 1
        if self._last is not None and self._last < time and self._reaches(time, place):
            frame = self._forward(time)
            if frame is not None:
                return frame
        # A container may seek to a later frame than it was told to; then decoding begins at earlier ones, at last at the first.
        for start in (place, place - 1, -1) if place > 0 else (-1,):
            self._seek(start)
            frame = self._forward(time)
            if frame is not None:
                return frame
        raise DecodeError(f"{self._path}: the frame at {time} cannot be decoded")

    def _reaches(self, time: int, place: int) -> bool:
        """Whether going on is no longer a way than beginning anew."""
        return place < 0 or int(self._index.keys[place]) <= (self._last or 0) or not len(self._index.keys)

    def _seek(self, place: int) -> None:
        """Goes to one of the frames from which decoding can begin, or opens the file anew (-1)."""
        if place < 0 and self._container is not None:
            self._container.close()
            self._container = None
        if self._container is None:
            self._container, self._stream = _opened(self._path)
        if place >= 0:
            self._container.seek(int(self._index.keys[place]), stream=self._stream, backward=True, any_frame=False)
        self._frames, self._last = self._container.decode(self._stream), None

    def _forward(self, time: int) -> Any:
        """Decodes up to a frame; None if it is passed without being seen."""
        for frame in self._frames:
            if frame.pts is None:
                continue
            self._last = frame.pts
            self._keep(frame)
            if frame.pts == time:
                if frame.is_corrupt:
                    raise ValueError("a frame is damaged")
                return frame
            if frame.pts > time:
                return None
        self._last = None  # the file has ended
        return None

    def _keep(self, frame: Any) -> None:
        place = int(np.searchsorted(self._kept, frame.pts))
        if frame.is_corrupt or place == len(self._kept) or self._kept[place] != frame.pts:
            return
        self._recent[frame.pts] = frame
        while len(self._recent) > max(1, _KEPT_BYTES // (frame.width * frame.height * 3 // 2 or 1)):
            self._recent.popitem(last=False)


def _opened(path: str) -> tuple[Any, Any]:
    """The container, and its video; a cover is none."""
    import av

    container: Any = av.open(path, options={"fflags": "+genpts"})
    streams = [stream for stream in container.streams.video if not int(stream.disposition) & _COVER]
    if not streams:
        container.close()
        raise ValueError("it has no video")
    # Workers are many already; what is decoded does not depend on the number of threads.
    streams[0].codec_context.thread_count = 1
    return container, streams[0]


def _pixels(frame: Any) -> np.ndarray:
    """RGB, turned as the file says; pixels that are not square stay as they are."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, k=round(frame.rotation / 90) % 4))


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or first_line(error)
