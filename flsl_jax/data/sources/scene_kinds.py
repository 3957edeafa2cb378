"""The kinds of scenes: what is drawn at random in a scene, and what of it tells the class of an object.

"hues": a class has a texture, a shape and a hue. Brightness, contrast, scale and place are drawn for every object, which
stands upright up to a few degrees; a background may have any hue. So brightness, which says nothing about the class, makes up
most of a pixel's value, and the hue, which does, makes up the smaller part.

"textures": a class has a texture and a shape. The colours of every object and of the background are drawn anew, in one way
for all classes, and so are the contrast of the texture, its phase and its angle. Every texture has mean 0 and variance 1, so
neither the mean colour of an object nor how far its texture moves it says anything about the class. Coloured light drifts over
the whole scene by about as much as the colours of its objects differ, so that a colour hardly tells an object from another.
Objects are at least half as wide as the image, which is 6 patches of 8 pixels at 96 pixels, and hold 7 periods of their
texture or more.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

_Plane = Float[np.ndarray, "*any"]
_Pattern = Callable[[_Plane, _Plane], _Plane]
# How far a hue moves each channel from grey, in grey levels; brightness moves all channels together, by up to 200.
_CHROMA = 20.0
# The same for the light of the scenes of textures.
_DRIFT = 40.0
# No shape reaches further from its centre, in units of its radius; the triangle has a corner at (1, -0.7).
REACH = 1.25
_DIAGONAL = 0.5**0.5


def _dots(u: _Plane, v: _Plane) -> _Plane:
    return np.where(np.hypot(u % 1 - 0.5, v % 1 - 0.5) < 0.3, 1.0, -1.0)


def _bricks(u: _Plane, v: _Plane) -> _Plane:
    return np.where((v % 1 < 0.25) | ((0.5 * u + 0.5 * np.floor(v)) % 1 < 0.15), -1.0, 1.0)


def _checks(u: _Plane, v: _Plane) -> _Plane:
    return np.sign(np.sin(np.pi * u) * np.sin(np.pi * v))


# From -1, the first colour of an object, to 1, its second.
_TEXTURES_OF_HUES: dict[str, _Pattern] = {
    "striped": lambda u, v: np.sin(2 * np.pi * u),
    "barred": lambda u, v: np.sin(2 * np.pi * v),
    "slanted": lambda u, v: np.sin(2 * np.pi * _DIAGONAL * (u + v)),
    "tilted": lambda u, v: np.sin(2 * np.pi * _DIAGONAL * (u - v)),
    "checkered": _checks,
    "dotted": _dots,
    "plain": lambda u, v: np.sin(0.12 * np.pi * u),
    "bricked": _bricks,
}


def _even_dots(u: _Plane, v: _Plane) -> _Plane:
    """Dots that cover half of the plane."""
    return np.where(np.hypot(u % 1 - 0.5, v % 1 - 0.5) < (2 * np.pi) ** -0.5, 1.0, -1.0)


def _even_bricks(u: _Plane, v: _Plane) -> _Plane:
    """Bricks and mortar, scaled to mean 0 and variance 1."""
    mortar = 0.25 + 0.75 * 0.15
    return (_bricks(u, v) - (1 - 2 * mortar)) / (2 * np.sqrt(mortar * (1 - mortar)))


def _zigzags(u: _Plane, v: _Plane) -> _Plane:
    """Stripes that turn by a right angle after every period and a half."""
    return _waves(_DIAGONAL * (u + np.abs((v + 1.5) % 3 - 1.5)))


def _waves(u: _Plane) -> _Plane:
    return 2**0.5 * np.sin(2 * np.pi * u)


# Of mean 0 and variance 1 over the plane, and between -1.42 and 1.42.
EVEN_TEXTURES: dict[str, _Pattern] = {
    "striped": lambda u, v: _waves(u),
    "barred": lambda u, v: _waves(v),
    "slanted": lambda u, v: _waves(_DIAGONAL * (u + v)),
    "tilted": lambda u, v: _waves(_DIAGONAL * (u - v)),
    "checkered": lambda u, v: _checks(2 * u, 2 * v),
    "dotted": _even_dots,
    "zigzag": _zigzags,
    "bricked": _even_bricks,
}
SHAPES: dict[str, Callable[[_Plane, _Plane], Bool[np.ndarray, "*any"]]] = {
    "disk": lambda x, y: x**2 + y**2 < 1,
    "square": lambda x, y: (np.abs(x) < 0.85) & (np.abs(y) < 0.85),
    "triangle": lambda x, y: (y > -0.7) & (y < 1 - 1.7 * np.abs(x)),
    "ring": lambda x, y: (x**2 + y**2 < 1) & (x**2 + y**2 > 0.16),
    "star": lambda x, y: np.hypot(x, y) < 0.65 + 0.35 * np.cos(5 * np.arctan2(y, x)),
    "flower": lambda x, y: np.hypot(x, y) < 0.75 + 0.25 * np.cos(5 * np.arctan2(y, x)),
    "cross": lambda x, y: ((np.abs(x) < 0.4) & (np.abs(y) < 1)) | ((np.abs(y) < 0.4) & (np.abs(x) < 1)),
}
# The smaller of a shape's width and height as it stands upright, in units of its radius.
_EXTENTS = {"disk": 2.0, "square": 1.7, "triangle": 1.7, "flower": 1.8, "cross": 2.0}


@dataclasses.dataclass(frozen=True)
class SceneObject:
    """One object. Lengths are shares of the image's side, so a scene looks the same at every size; angles are radians.

    A texture has its own angle, `turn`, within the object, and its `phase` in periods. It moves `colors` from the first one
    (-1) to the second one (1), [2, 3] in levels.
    """

    label: int
    texture: _Pattern
    shape: Callable[[_Plane, _Plane], Bool[np.ndarray, "*any"]]
    center: np.ndarray
    radius: float
    angle: float
    period: float
    turn: float
    phase: np.ndarray
    colors: np.ndarray
    velocity: np.ndarray
    spin: float
    growth: float


@dataclasses.dataclass(frozen=True)
class SceneLayout:
    """Everything that determines a scene's pixels, except their number. Later objects are in front.

    `drift`: how far a light that changes slowly over the scene moves a channel, in levels; 0: no such light.
    """

    background_colors: np.ndarray
    roughness: float
    drift: float
    objects: tuple[SceneObject, ...]
    grain: float
    noise_seed: int


@dataclasses.dataclass(frozen=True)
class SceneKind:
    """A kind of scenes.

    Attributes:
        class_names: texture and shape.
        draw: a layout from random numbers.
        smallest_share: of the image that is seen of each object; layouts with less are drawn again.
        smallest_side: of the box of what is seen of each object, as a share of the image's side; likewise.
    """

    class_names: tuple[str, ...]
    draw: Callable[[np.random.Generator], SceneLayout]
    smallest_share: float
    smallest_side: float


_CLASSES_OF_HUES = (
    ("striped", "disk"),
    ("barred", "cross"),
    ("slanted", "square"),
    ("tilted", "triangle"),
    ("checkered", "star"),
    ("dotted", "ring"),
    ("plain", "triangle"),
    ("bricked", "square"),
)
_CLASSES_OF_TEXTURES = (
    ("striped", "disk"),
    ("barred", "cross"),
    ("slanted", "square"),
    ("tilted", "triangle"),
    ("checkered", "flower"),
    ("dotted", "disk"),
    ("zigzag", "triangle"),
    ("bricked", "square"),
)


def _draw_hues(rng: np.random.Generator) -> SceneLayout:
    objects = []
    for _ in range(rng.integers(1, 4)):
        radius = rng.uniform(0.18, 0.34)
        label = int(rng.integers(len(_CLASSES_OF_HUES)))
        texture, shape = _CLASSES_OF_HUES[label]
        objects.append(
            SceneObject(
                label=label,
                texture=_TEXTURES_OF_HUES[texture],
                shape=SHAPES[shape],
                center=rng.uniform(0.6 * radius, 1 - 0.6 * radius, 2),
                radius=radius,
                angle=rng.uniform(-0.2, 0.2),
                period=rng.uniform(0.12, 0.16),
                turn=0.0,
                phase=np.zeros(2),
                colors=_dark_and_bright(rng, hue=label / len(_CLASSES_OF_HUES) + rng.normal(0, 0.02)),
                velocity=rng.uniform(-0.02, 0.02, 2),
                spin=rng.uniform(-0.06, 0.06),
                growth=rng.uniform(-0.015, 0.015),
            )
        )
    return _on_background(rng, objects, colors=_dark_and_bright(rng, hue=rng.uniform()), drift=0.0)


def _dark_and_bright(rng: np.random.Generator, *, hue: float) -> np.ndarray:
    """Two colours of one hue (in turns), far enough apart in brightness for a texture to show."""
    tint = _CHROMA * np.cos(2 * np.pi * (hue + np.arange(3) / 3))
    while True:
        brightness = rng.uniform(_CHROMA, 255 - _CHROMA, 2)
        if abs(brightness[0] - brightness[1]) > 80:
            return brightness[:, None] + tint


def _draw_textures(rng: np.random.Generator) -> SceneLayout:
    objects = []
    for _ in range(rng.integers(1, 3)):
        label = int(rng.integers(len(_CLASSES_OF_TEXTURES)))
        texture, shape = _CLASSES_OF_TEXTURES[label]
        side = rng.uniform(0.56, 0.68)
        objects.append(
            SceneObject(
                label=label,
                texture=EVEN_TEXTURES[texture],
                shape=SHAPES[shape],
                center=rng.uniform(0.45 * side, 1 - 0.45 * side, 2),
                radius=side / _EXTENTS[shape],
                angle=rng.uniform(-0.2, 0.2),
                period=rng.uniform(0.05, 0.07),
                turn=rng.uniform(-0.2, 0.2),
                phase=rng.uniform(0, 6, 2),
                colors=_any_colors(rng),
                velocity=rng.uniform(-0.02, 0.02, 2),
                spin=rng.uniform(-0.06, 0.06),
                growth=rng.uniform(-0.015, 0.015),
            )
        )
    return _on_background(rng, objects, colors=_any_colors(rng), drift=_DRIFT)


def _any_colors(rng: np.random.Generator) -> np.ndarray:
    """Two colours around a mean that is far enough from black and white for no texture to be cut off, drift included."""
    difference = rng.choice([-1.0, 1.0]) * rng.uniform(12, 26) * rng.uniform(0.6, 1.3, 3)
    return rng.uniform(90, 165, 3) + np.array([[-1.0], [1.0]]) * difference


def _on_background(
    rng: np.random.Generator, objects: list[SceneObject], *, colors: np.ndarray, drift: float
) -> SceneLayout:
    return SceneLayout(
        background_colors=colors,
        roughness=rng.uniform(0.8, 1.8),
        drift=drift,
        objects=tuple(objects),
        grain=rng.uniform(1.0, 6.0),
        noise_seed=int(rng.integers(2**31)),
    )


def _names(classes: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    return tuple(f"{texture} {shape}" for texture, shape in classes)


KINDS = {
    "hues": SceneKind(_names(_CLASSES_OF_HUES), _draw_hues, smallest_share=0.02, smallest_side=0.0),
    "textures": SceneKind(_names(_CLASSES_OF_TEXTURES), _draw_textures, smallest_share=0.1, smallest_side=0.53),
}
