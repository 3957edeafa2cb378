"""Embedded synthetic scenes: textured objects of named classes on textured backgrounds, with exact boxes and masks.

A class is a texture on a shape, tinted by a hue of its own. Brightness, contrast, scale and place are drawn for every
object, which stands upright up to a few degrees; a background may have any hue. So brightness, which says nothing about the
class, makes up most of a pixel's value, and the hue, which does, makes up the smaller part.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8

from flsl_jax.data.boxes import Boxes
from flsl_jax.data.records import Record, checked_index
from flsl_jax.errors import UserError

_Plane = Float[np.ndarray, "*any"]
_SPLITS = {"train": 0, "val": 1, "test": 2}
_MIN_VISIBLE_SHARE = 0.02
_MAX_OBJECTS = 3
# How far a hue moves each channel from grey, in grey levels; brightness moves all channels together, by up to 200.
_CHROMA = 20.0
# No shape reaches further from its centre, in units of its radius; the triangle has a corner at (1, -0.7).
_REACH = 1.25


def _dots(u: _Plane, v: _Plane) -> _Plane:
    return np.where(np.hypot(u % 1 - 0.5, v % 1 - 0.5) < 0.3, 1.0, -1.0)


_DIAGONAL = 0.5**0.5
_TEXTURES: dict[str, Callable[[_Plane, _Plane], _Plane]] = {
    "striped": lambda u, v: np.sin(2 * np.pi * u),
    "barred": lambda u, v: np.sin(2 * np.pi * v),
    "slanted": lambda u, v: np.sin(2 * np.pi * _DIAGONAL * (u + v)),
    "tilted": lambda u, v: np.sin(2 * np.pi * _DIAGONAL * (u - v)),
    "checkered": lambda u, v: np.sign(np.sin(np.pi * u) * np.sin(np.pi * v)),
    "dotted": _dots,
    "plain": lambda u, v: np.sin(0.12 * np.pi * u),
    "bricked": lambda u, v: np.where((v % 1 < 0.25) | ((0.5 * u + 0.5 * np.floor(v)) % 1 < 0.15), -1.0, 1.0),
}
_SHAPES: dict[str, Callable[[_Plane, _Plane], np.ndarray]] = {
    "disk": lambda x, y: x**2 + y**2 < 1,
    "square": lambda x, y: (np.abs(x) < 0.85) & (np.abs(y) < 0.85),
    "triangle": lambda x, y: (y > -0.7) & (y < 1 - 1.7 * np.abs(x)),
    "ring": lambda x, y: (x**2 + y**2 < 1) & (x**2 + y**2 > 0.16),
    "star": lambda x, y: np.hypot(x, y) < 0.65 + 0.35 * np.cos(5 * np.arctan2(y, x)),
    "cross": lambda x, y: ((np.abs(x) < 0.4) & (np.abs(y) < 1)) | ((np.abs(y) < 0.4) & (np.abs(x) < 1)),
}
_CLASSES = (
    ("striped", "disk"),
    ("barred", "cross"),
    ("slanted", "square"),
    ("tilted", "triangle"),
    ("checkered", "star"),
    ("dotted", "ring"),
    ("plain", "triangle"),
    ("bricked", "square"),
)
CLASS_NAMES = tuple(f"{texture} {shape}" for texture, shape in _CLASSES)


@dataclasses.dataclass(frozen=True)
class SceneMasks:
    """Masks of one scene. `instances`: the object's number, from 1; `classes`: class + 1. Both are 0 for background."""

    instances: UInt8[np.ndarray, "H W"]
    classes: UInt8[np.ndarray, "H W"]


@dataclasses.dataclass(frozen=True)
class Film:
    """A short film of one scene: T frames, and the instance mask of each; objects keep their numbers."""

    images: UInt8[np.ndarray, "T H W 3"]
    instances: UInt8[np.ndarray, "T H W"]


@dataclasses.dataclass(frozen=True)
class _Object:
    """One object. Lengths are shares of the image's side, so a scene looks the same at every size."""

    label: int
    center: np.ndarray
    radius: float
    angle: float
    period: float
    colors: np.ndarray
    velocity: np.ndarray
    spin: float
    growth: float


@dataclasses.dataclass(frozen=True)
class _Layout:
    """Everything that determines a scene's pixels, except their number."""

    background_colors: np.ndarray
    roughness: float
    objects: tuple[_Object, ...]
    grain: float
    noise_seed: int


class Scenes:
    """A source of scenes. An index always gives the same scene, and no scene is in two splits.

    Args:
        count: number of scenes, 1 or more.
        size: height and width in pixels, 16 or more.
        seed: of the whole set.
        split: "train", "val" or "test".

    Raises:
        UserError: the count or the size is too small, or the split is unknown.
    """

    def __init__(self, *, count: int, size: int, seed: int = 0, split: str = "train") -> None:
        if count < 1:
            raise UserError(f"config.data.count is {count}; expected the number of scenes, at least 1")
        if size < 16:
            raise UserError(f"config.data.scene_size is {size}; expected pixels, at least 16")
        if split not in _SPLITS:
            raise UserError(f'config.data.split is "{split}"; scenes have {", ".join(_SPLITS)}')
        self.name = f"scenes ({split})"
        self.class_names = CLASS_NAMES
        self._count, self._size, self._seed, self._split = count, size, seed, split

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        layout = self._layout(index)
        image, instances = _draw(layout, size=self._size, time=0.0)
        boxes = _boxes(layout, instances)
        label = int(boxes.labels[boxes.largest()])
        return Record(image=image, name=f"{self._split}/{index:06d}", label=label, boxes=boxes)

    def masks(self, index: int) -> SceneMasks:
        """The exact masks of scene `index`."""
        layout = self._layout(index)
        _, instances = _draw(layout, size=self._size, time=0.0)
        classes = np.array([0] + [item.label + 1 for item in layout.objects], np.uint8)
        return SceneMasks(instances=instances, classes=classes[instances])

    def sequence(self, index: int, *, frames: int = 8) -> Film:
        """Scene `index` in motion; its first frame is the scene itself."""
        layout = self._layout(index)
        drawn = [_draw(layout, size=self._size, time=float(frame)) for frame in range(frames)]
        return Film(images=np.stack([image for image, _ in drawn]), instances=np.stack([mask for _, mask in drawn]))

    def _layout(self, index: int) -> _Layout:
        index = checked_index(index, self._count)
        for attempt in range(100):
            rng = np.random.default_rng([self._seed, _SPLITS[self._split], index, attempt])
            layout = _random_layout(rng)
            shares = _visible_shares(layout, size=self._size)
            if min(shares) >= _MIN_VISIBLE_SHARE:
                return layout
        raise RuntimeError(f"no layout of scene {index} shows all of its objects")


def _random_layout(rng: np.random.Generator) -> _Layout:
    objects = []
    for _ in range(rng.integers(1, _MAX_OBJECTS + 1)):
        radius = rng.uniform(0.18, 0.34)
        label = int(rng.integers(len(_CLASSES)))
        objects.append(
            _Object(
                label=label,
                center=rng.uniform(0.6 * radius, 1 - 0.6 * radius, 2),
                radius=radius,
                angle=rng.uniform(-0.2, 0.2),
                period=rng.uniform(0.12, 0.16),
                colors=_dark_and_bright(rng, hue=label / len(_CLASSES) + rng.normal(0, 0.02)),
                velocity=rng.uniform(-0.02, 0.02, 2),
                spin=rng.uniform(-0.06, 0.06),
                growth=rng.uniform(-0.015, 0.015),
            )
        )
    return _Layout(
        background_colors=_dark_and_bright(rng, hue=rng.uniform()),
        roughness=rng.uniform(0.8, 1.8),
        objects=tuple(objects),
        grain=rng.uniform(1.0, 6.0),
        noise_seed=int(rng.integers(2**31)),
    )


def _dark_and_bright(rng: np.random.Generator, *, hue: float) -> np.ndarray:
    """Two colours of one hue (in turns), far enough apart in brightness for a texture to show."""
    tint = _CHROMA * np.cos(2 * np.pi * (hue + np.arange(3) / 3))
    while True:
        brightness = rng.uniform(_CHROMA, 255 - _CHROMA, 2)
        if abs(brightness[0] - brightness[1]) > 80:
            return brightness[:, None] + tint


@dataclasses.dataclass(frozen=True)
class _Outline:
    """Where one object lies: a window of the image, in it the object's own coordinates in units of its radius, and
    which pixels its shape covers."""

    window: tuple[slice, slice]
    x: _Plane
    y: _Plane
    inside: Bool[np.ndarray, "H W"]


def _outline(item: _Object, *, size: int, time: float) -> _Outline:
    place = (np.arange(size) + 0.5) / size
    radius = item.radius * (1 + item.growth) ** time
    center = item.center + time * item.velocity
    rows, columns = (
        slice(*np.searchsorted(place, [middle - _REACH * radius, middle + _REACH * radius])) for middle in center
    )
    dy, dx = place[rows, None] - center[0], place[None, columns] - center[1]
    cosine, sine = np.cos(item.angle + time * item.spin), np.sin(item.angle + time * item.spin)
    x, y = (cosine * dx + sine * dy) / radius, (cosine * dy - sine * dx) / radius
    return _Outline(window=(rows, columns), x=x, y=y, inside=_SHAPES[_CLASSES[item.label][1]](x, y))


def _instances(outlines: Sequence[_Outline], *, size: int) -> UInt8[np.ndarray, "H W"]:
    """Object numbers from 1, later objects in front; 0 for background."""
    instances = np.zeros((size, size), np.uint8)
    for number, outline in enumerate(outlines, start=1):
        instances[outline.window][outline.inside] = number
    return instances


def _draw(layout: _Layout, *, size: int, time: float) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]:
    """Image and instance numbers."""
    rng = np.random.default_rng(layout.noise_seed)
    shade = 0.5 + 0.5 * np.tanh(0.7 * _smooth_noise(rng, size=size, roughness=layout.roughness))
    image = _mix(layout.background_colors, shade)
    outlines = [_outline(item, size=size, time=time) for item in layout.objects]
    for item, outline in zip(layout.objects, outlines):
        scale = item.radius / item.period
        x, y = scale * outline.x[outline.inside], scale * outline.y[outline.inside]
        shade = 0.5 + 0.5 * _TEXTURES[_CLASSES[item.label][0]](x, y)
        image[outline.window][outline.inside] = _mix(item.colors, shade)
    image += layout.grain * rng.standard_normal(image.shape)
    return np.clip(np.round(image), 0, 255).astype(np.uint8), _instances(outlines, size=size)


def _mix(colors: np.ndarray, shade: _Plane) -> np.ndarray:
    return colors[0] + (colors[1] - colors[0]) * shade[..., None]


def _smooth_noise(rng: np.random.Generator, *, size: int, roughness: float) -> _Plane:
    """Noise with a power-law spectrum, mean 0 and standard deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((size, size))) * frequency**-roughness, s=(size, size))
    return noise / noise.std()


def _visible_shares(layout: _Layout, *, size: int) -> list[float]:
    size = min(size, 64)
    instances = _instances([_outline(item, size=size, time=0.0) for item in layout.objects], size=size)
    return list(np.bincount(instances.reshape(-1), minlength=len(layout.objects) + 1)[1:] / size**2)


def _boxes(layout: _Layout, instances: np.ndarray) -> Boxes:
    """Tight boxes of the visible parts."""
    corners, labels = [], []
    for number, item in enumerate(layout.objects, start=1):
        rows, columns = (np.flatnonzero((instances == number).any(axis=axis)) for axis in (1, 0))
        if rows.size:
            corners.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
            labels.append(item.label)
    return Boxes(xyxy=np.array(corners, np.float32), labels=np.array(labels, np.int64))
