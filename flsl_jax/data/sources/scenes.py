"""Embedded synthetic scenes: textured objects of named classes on textured backgrounds, with exact boxes and masks.

A class is a texture on a shape. What else tells it depends on the kind of scenes; see `flsl_jax/data/sources/scene_kinds.py`.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8

from flsl_jax.data.boxes import Boxes
from flsl_jax.data.records import Record, checked_index, digest_of
from flsl_jax.data.sources.scene_kinds import KINDS, REACH, SceneKind, SceneLayout, SceneObject
from flsl_jax.errors import UserError

_Plane = Float[np.ndarray, "*any"]
_SPLITS = {"train": 0, "val": 1, "test": 2}
# Rows and columns of an object's key points, in units of its radius.
_GRID = np.linspace(-0.6, 0.6, 5)
# In metres: how far the background is, and the radius of every object, for `Scenes.depth`.
_FAR, _REAL_RADIUS = 4.0, 0.5
# Whether a layout shows all of its objects is judged at this size.
_TRIED_SIZE = 64


@dataclasses.dataclass(frozen=True)
class SceneMasks:
    """Masks of one scene. `instances`: the object's number, from 1; `classes`: class + 1. Both are 0 for background."""

    instances: UInt8[np.ndarray, "H W"]
    classes: UInt8[np.ndarray, "H W"]


@dataclasses.dataclass(frozen=True)
class SceneKeypoints:
    """One object of a scene.

    `label`: its class. `points`: (x, y) in pixels of places that every object of the class has, a grid of 5 × 5 within its
    shape; whole numbers are the middles of pixels; NaN where the place is not seen. `box`: (x0, y0, x1, y1) of what is seen.
    """

    label: int
    points: Float[np.ndarray, "25 2"]
    box: Float[np.ndarray, "4"]


@dataclasses.dataclass(frozen=True)
class Film:
    """A short film of one scene: T frames, and the instance mask of each; objects keep their numbers."""

    images: UInt8[np.ndarray, "T H W 3"]
    instances: UInt8[np.ndarray, "T H W"]


class Scenes:
    """A source of scenes. An index always gives the same scene, and no scene is in two splits.

    Args:
        count: number of scenes, 1 or more.
        size: height and width in pixels, 16 or more.
        seed: of the whole set.
        split: "train", "val" or "test".
        kind: "hues" or "textures"; see `flsl_jax/data/sources/scene_kinds.py`.

    Raises:
        UserError: the count or the size is too small, or the split or the kind is unknown.
    """

    def __init__(self, *, count: int, size: int, seed: int = 0, split: str = "train", kind: str = "hues") -> None:
        if count < 1:
            raise UserError(f"config.data.count is {count}; expected the number of scenes, at least 1")
        if size < 16:
            raise UserError(f"config.data.scene_size is {size}; expected pixels, at least 16")
        if split not in _SPLITS:
            raise UserError(f'config.data.split is "{split}"; scenes have {", ".join(_SPLITS)}')
        if kind not in KINDS:
            raise UserError(f'config.data.scene_kind is "{kind}"; the kinds of scenes are {", ".join(KINDS)}')
        self.name = f"scenes ({split})" if kind == "hues" else f"scenes of {kind} ({split})"
        self.class_names = KINDS[kind].class_names
        self._kind, self._count, self.size, self._seed, self._split = kind, count, size, seed, split

    @property
    def digest(self) -> str:
        return digest_of(self.name, str(self._count), str(self.size), str(self._seed))

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Record:
        layout = self._layout(index)
        image, instances = _draw(layout, size=self.size, time=0.0)
        boxes = _boxes(layout, instances)
        label = int(boxes.labels[boxes.largest()])
        return Record(image=image, name=self.name_of(index), label=label, boxes=boxes)

    def name_of(self, index: int) -> str:
        """The name of scene `index`, without drawing it."""
        return f"{self._split}/{index:06d}"

    def masks(self, index: int) -> SceneMasks:
        """The exact masks of scene `index`."""
        layout = self._layout(index)
        _, instances = _draw(layout, size=self.size, time=0.0)
        classes = np.array([0] + [item.label + 1 for item in layout.objects], np.uint8)
        return SceneMasks(instances=instances, classes=classes[instances])

    def depth(self, index: int) -> Float[np.ndarray, "H W"]:
        """How far away each pixel of scene `index` is, in metres, float32.

        The background is 4 m away, and an object as far as something of half a metre that looks as large: 0.5 / radius.
        """
        layout = self._layout(index)
        instances = _instances([_outline(item, size=self.size, time=0.0) for item in layout.objects], size=self.size)
        return np.array([_FAR, *(_REAL_RADIUS / item.radius for item in layout.objects)], np.float32)[instances]

    def keypoints(self, index: int) -> tuple[SceneKeypoints, ...]:
        """The objects of scene `index` of which something is seen."""
        layout = self._layout(index)
        instances = _instances([_outline(item, size=self.size, time=0.0) for item in layout.objects], size=self.size)
        boxes = _boxes(layout, instances)
        seen = [number for number in range(1, len(layout.objects) + 1) if (instances == number).any()]
        return tuple(
            SceneKeypoints(
                label=layout.objects[number - 1].label, points=_keypoints(layout, instances, number), box=box
            )
            for number, box in zip(seen, boxes.xyxy, strict=True)
        )

    def sequence(self, index: int, *, frames: int = 8) -> Film:
        """Scene `index` in motion; its first frame is the scene itself."""
        layout = self._layout(index)
        drawn = [_draw(layout, size=self.size, time=float(frame)) for frame in range(frames)]
        return Film(images=np.stack([image for image, _ in drawn]), instances=np.stack([mask for _, mask in drawn]))

    def _layout(self, index: int) -> SceneLayout:
        index = checked_index(index, self._count)
        for attempt in range(100):
            rng = np.random.default_rng([self._seed, _SPLITS[self._split], index, attempt])
            layout = KINDS[self._kind].draw(rng)
            if _shows_all(layout, size=self.size, kind=KINDS[self._kind]):
                return layout
        raise RuntimeError(f"no layout of scene {index} shows all of its objects")


@dataclasses.dataclass(frozen=True)
class _Outline:
    """Where one object lies: a window of the image, in it the object's own coordinates in units of its radius, and
    which pixels its shape covers."""

    window: tuple[slice, slice]
    x: _Plane
    y: _Plane
    inside: Bool[np.ndarray, "H W"]


def _outline(item: SceneObject, *, size: int, time: float) -> _Outline:
    place = (np.arange(size) + 0.5) / size
    radius = item.radius * (1 + item.growth) ** time
    center = item.center + time * item.velocity
    rows, columns = (
        slice(*np.searchsorted(place, [middle - REACH * radius, middle + REACH * radius])) for middle in center
    )
    dy, dx = place[rows, None] - center[0], place[None, columns] - center[1]
    cosine, sine = np.cos(item.angle + time * item.spin), np.sin(item.angle + time * item.spin)
    x, y = (cosine * dx + sine * dy) / radius, (cosine * dy - sine * dx) / radius
    return _Outline(window=(rows, columns), x=x, y=y, inside=item.shape(x, y))


def _instances(outlines: Sequence[_Outline], *, size: int) -> UInt8[np.ndarray, "H W"]:
    """Object numbers from 1, later objects in front; 0 for background."""
    instances = np.zeros((size, size), np.uint8)
    for number, outline in enumerate(outlines, start=1):
        instances[outline.window][outline.inside] = number
    return instances


def _draw(
    layout: SceneLayout, *, size: int, time: float
) -> tuple[UInt8[np.ndarray, "H W 3"], UInt8[np.ndarray, "H W"]]:
    """Image and instance numbers."""
    rng = np.random.default_rng(layout.noise_seed)
    shade = 0.5 + 0.5 * np.tanh(0.7 * _smooth_noise(rng, size=size, roughness=layout.roughness))
    image = _mix(layout.background_colors, shade)
    outlines = [_outline(item, size=size, time=time) for item in layout.objects]
    for item, outline in zip(layout.objects, outlines):
        scale = item.radius / item.period
        x, y = scale * outline.x[outline.inside], scale * outline.y[outline.inside]
        cosine, sine = np.cos(item.turn), np.sin(item.turn)
        shade = 0.5 + 0.5 * item.texture(cosine * x + sine * y + item.phase[0], cosine * y - sine * x + item.phase[1])
        image[outline.window][outline.inside] = _mix(item.colors, shade)
    if layout.drift:
        image += layout.drift * _light(layout.noise_seed, size=size)
    image += layout.grain * rng.standard_normal(image.shape)
    return np.clip(np.round(image), 0, 255).astype(np.uint8), _instances(outlines, size=size)


def _mix(colors: np.ndarray, shade: _Plane) -> np.ndarray:
    return colors[0] + (colors[1] - colors[0]) * shade[..., None]


def _light(seed: int, *, size: int) -> Float[np.ndarray, "H W 3"]:
    """Light that changes slowly over the scene, each channel by itself, from -1 to 1."""
    rng = np.random.default_rng([seed, 1])
    return np.stack([np.tanh(0.7 * _smooth_noise(rng, size=size, roughness=3.0)) for _ in range(3)], axis=-1)


def _smooth_noise(rng: np.random.Generator, *, size: int, roughness: float) -> _Plane:
    """Noise with a power-law spectrum, mean 0 and standard deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :])
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((size, size))) * frequency**-roughness, s=(size, size))
    return noise / noise.std()


def _shows_all(layout: SceneLayout, *, size: int, kind: SceneKind) -> bool:
    """Whether enough is seen of each object, at `size` or at less."""
    if min(_visible_shares(layout, size=min(size, _TRIED_SIZE))) < kind.smallest_share:
        return False
    if not kind.smallest_side:
        return True
    outlines = [_outline(item, size=_TRIED_SIZE, time=0.0) for item in layout.objects]
    corners = _boxes(layout, _instances(outlines, size=_TRIED_SIZE)).xyxy
    return len(corners) == len(layout.objects) and bool(
        (corners[:, 2:] - corners[:, :2]).min() >= kind.smallest_side * _TRIED_SIZE
    )


def _visible_shares(layout: SceneLayout, *, size: int) -> list[float]:
    instances = _instances([_outline(item, size=size, time=0.0) for item in layout.objects], size=size)
    return list(np.bincount(instances.reshape(-1), minlength=len(layout.objects) + 1)[1:] / size**2)


def _keypoints(layout: SceneLayout, instances: np.ndarray, number: int) -> Float[np.ndarray, "25 2"]:
    """The grid of an object's places as (x, y) in pixels; NaN where another object, or nothing, is seen."""
    item, size = layout.objects[number - 1], len(instances)
    own = np.stack(np.meshgrid(_GRID, _GRID), axis=-1).reshape(-1, 2)
    cosine, sine = np.cos(item.angle), np.sin(item.angle)
    turned = own @ np.array([[cosine, sine], [-sine, cosine]])
    points = (item.center[::-1] + item.radius * turned) * size - 0.5
    columns, rows = np.round(points).astype(np.int64).T
    inside = (np.minimum(columns, rows) >= 0) & (np.maximum(columns, rows) < size)
    shown = inside & (instances[np.clip(rows, 0, size - 1), np.clip(columns, 0, size - 1)] == number)
    return np.where(shown[:, None], points, np.nan)


def _boxes(layout: SceneLayout, instances: np.ndarray) -> Boxes:
    """Tight boxes of the visible parts."""
    corners, labels = [], []
    for number, item in enumerate(layout.objects, start=1):
        rows, columns = (np.flatnonzero((instances == number).any(axis=axis)) for axis in (1, 0))
        if rows.size:
            corners.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
            labels.append(item.label)
    return Boxes(xyxy=np.array(corners, np.float32), labels=np.array(labels, np.int64))
