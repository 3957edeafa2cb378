"""Teacher and student views of a batch of base crops, made on the accelerator (METHOD, "Views").

Every draw is keyed by (seed, global sample index, view), so that a view does not depend on the batch, the device or the
process that makes it.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp

from flsl_jax.data import pixels
from flsl_jax.data.resample import crop_resize, random_crop_box
from flsl_jax.typing import Array, Float, Key, UInt8, UInt32

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Treatment:
    """Pixel treatment, drawn anew for every view.

    `blur_and_solarise` "independent" (paper): each with its own probability. "either" (released): with probability ½
    blur with `blur_probability`, otherwise blur with `alternative_blur_probability` and solarise with its probability.
    """

    jitter_probability: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grayscale_probability: float = 0.2
    blur_probability: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    solarise_probability: float = 0.2
    blur_and_solarise: Literal["independent", "either"] = "independent"
    alternative_blur_probability: float = 0.1
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudentViews:
    """Student views of one size: random crops of the base crop, view v paired with the teacher view `teacher_of[v]`."""

    size: int
    area: tuple[float, float]
    teacher_of: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewRecipe:
    """Which views are made of a base crop of `size` pixels; hashable, static under jit."""

    size: int
    teacher_views: int
    students: tuple[StudentViews, ...]
    aspect: tuple[float, float]
    treatment: Treatment


@flax.struct.dataclass
class Views:
    """Normalised views, and where the student views lie in the base crop.

    `teacher` [B, T, S, S, 3]; `students`: for every group [B, V, s, s, 3]; `boxes`: for every group [B, V, 4], (y0, x0,
    y1, x1) in pixels of the base crop.
    """

    teacher: Float[Array, "B T S S 3"]
    students: tuple[Array, ...]
    boxes: tuple[Array, ...]


def paper_recipe(
    *,
    size: int = 224,
    student_area: tuple[float, float] = (0.5, 1.0),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
    treatment: Treatment | None = None,
) -> ViewRecipe:
    """Two treated copies of the base crop for the teacher; two crops for the student, paired crosswise."""
    return ViewRecipe(
        size=size,
        teacher_views=2,
        students=(StudentViews(size=size, area=student_area, teacher_of=(1, 0)),),
        aspect=aspect,
        treatment=treatment or Treatment(),
    )


def released_recipe(
    *,
    size: int = 224,
    local_size: int = 96,
    student_area: tuple[float, float] = (0.5, 1.0),
    local_area: tuple[float, float] = (0.05, 0.4),
    aspect: tuple[float, float] = (3 / 4, 4 / 3),
    treatment: Treatment | None = None,
) -> ViewRecipe:
    """One teacher view; one large and two small student views, all paired with it."""
    return ViewRecipe(
        size=size,
        teacher_views=1,
        students=(
            StudentViews(size=size, area=student_area, teacher_of=(0,)),
            StudentViews(size=local_size, area=local_area, teacher_of=(0, 0)),
        ),
        aspect=aspect,
        treatment=dataclasses.replace(treatment or Treatment(), blur_and_solarise="either"),
    )


def make_views(images: UInt8[Array, "B S S 3"], sample: UInt32[Array, " B"], *, seed: int, recipe: ViewRecipe) -> Views:
    """All views of a batch of base crops. Pure; every image by itself.

    Args:
        images: base crops, RGB grey levels.
        sample: global sample indices.
        seed: of the run.
        recipe: which views; its `size` is S.

    Raises:
        ValueError: the base crops have another size than the recipe's.
    """
    if images.shape[1:] != (recipe.size, recipe.size, 3):
        raise ValueError(f"base crops are {images.shape[1:]}; the recipe expects ({recipe.size}, {recipe.size}, 3)")
    levels = images.astype(jnp.float32)
    root = jax.random.key(seed)
    keys = jax.vmap(lambda index: jax.random.fold_in(root, index))(sample)
    teacher_keys = _view_keys(keys, first=0, count=recipe.teacher_views)
    copies = jnp.broadcast_to(levels[:, None], (len(levels), recipe.teacher_views, *levels.shape[1:]))
    students, boxes, number = [], [], recipe.teacher_views
    for group in recipe.students:
        view_keys = _view_keys(keys, first=number, count=len(group.teacher_of))
        crops, places = _student_crops(levels, _folded(view_keys, 0), group=group, recipe=recipe)
        students.append(_treat_views(crops, _folded(view_keys, 1), recipe.treatment))
        boxes.append(places)
        number += len(group.teacher_of)
    return Views(
        teacher=_treat_views(copies, teacher_keys, recipe.treatment), students=tuple(students), boxes=tuple(boxes)
    )


def _view_keys(keys: Key[Array, " B"], *, first: int, count: int) -> Key[Array, "B V"]:
    """Keys [B, V] of the views numbered from `first` over teacher and students together."""
    return jnp.stack([_folded(keys, number) for number in range(first, first + count)], axis=1)


def _student_crops(
    levels: Float[Array, "B S S 3"], keys: Key[Array, "B V"], *, group: StudentViews, recipe: ViewRecipe
) -> tuple[Float[Array, "B V s s 3"], Float[Array, "B V 4"]]:
    """Resized crops [B, V, s, s, 3] of one group and their boxes [B, V, 4]."""

    def of_one_view(view_keys: Key[Array, " B"]) -> tuple[Array, Array]:
        box = _each(random_crop_box, size=recipe.size, area=group.area, aspect=recipe.aspect)(view_keys)
        return crop_resize(levels, box, size=group.size), box

    return jax.vmap(of_one_view, in_axes=1, out_axes=1)(keys)


def _treat_views(
    images: Float[Array, "B V H W 3"], keys: Key[Array, "B V"], treatment: Treatment
) -> Float[Array, "B V H W 3"]:
    """Treats images [B, V, H, W, 3] by keys [B, V]; one trace for all views of a size keeps the compile time down."""
    return jax.vmap(functools.partial(treat, treatment=treatment), in_axes=1, out_axes=1)(images, keys)


def treat(images: Float[Array, "B H W 3"], keys: Key[Array, " B"], *, treatment: Treatment) -> Float[Array, "B H W 3"]:
    """Colour jitter, grayscale, blur, solarise and normalise, each image by its own key; probability 0 costs nothing.

    Args:
        images: whole grey levels, 0 to 255.
        keys: one per image, [B].
        treatment: probabilities and strengths.
    """
    chance = _each(jax.random.uniform, shape=(5,))(_folded(keys, 0))
    blur_below, solarise_below = treatment.blur_probability, treatment.solarise_probability
    may_blur = treatment.blur_probability > 0
    if treatment.blur_and_solarise == "either":
        first = chance[:, 4] < 0.5
        blur_below = jnp.where(first, treatment.blur_probability, treatment.alternative_blur_probability)
        solarise_below = jnp.where(first, 0.0, treatment.solarise_probability)
        may_blur = may_blur or treatment.alternative_blur_probability > 0
    if treatment.jitter_probability > 0:
        jittered = _jitter(images, _folded(keys, 1), treatment)
        images = pixels.where(chance[:, 0] < treatment.jitter_probability, jittered, images)
    if treatment.grayscale_probability > 0:
        images = pixels.where(chance[:, 1] < treatment.grayscale_probability, pixels.grayscale(images), images)
    if may_blur:
        low, high = treatment.blur_sigma
        sigma = _each(jax.random.uniform, shape=(), minval=low, maxval=high)(_folded(keys, 2))
        blurred = pixels.gaussian_blur(images, sigma, max_sigma=high)
        images = pixels.where(chance[:, 2] < blur_below, blurred, images)
    if treatment.solarise_probability > 0:
        images = pixels.where(chance[:, 3] < solarise_below, pixels.solarise(images), images)
    return pixels.normalise(images, mean=treatment.mean, std=treatment.std)


def _jitter(images: Array, keys: Key[Array, " B"], treatment: Treatment) -> Array:
    """torchvision's ColorJitter: factors uniform in [max(0, 1 - s), 1 + s], hue in [-s, s], a random order.

    As there, a hue strength of 0 leaves the hue out.
    """

    def factor(number: int, strength: float) -> Array:
        low = max(0.0, 1.0 - strength)
        return _each(jax.random.uniform, shape=(), minval=low, maxval=1.0 + strength)(_folded(keys, number))

    hue = None
    if treatment.hue > 0:
        hue = _each(jax.random.uniform, shape=(), minval=-treatment.hue, maxval=treatment.hue)(_folded(keys, 3))
    return pixels.color_jitter(
        images,
        order=_each(jax.random.permutation, x=4)(_folded(keys, 4)),
        brightness=factor(0, treatment.brightness),
        contrast=factor(1, treatment.contrast),
        saturation=factor(2, treatment.saturation),
        hue=hue,
    )


def _folded(keys: Key[Array, "*b"], number: int) -> Key[Array, "*b"]:
    """Every key of the array, whatever its shape, folded with the number."""
    flat = jax.vmap(lambda key: jax.random.fold_in(key, number))(keys.reshape(-1))
    return flat.reshape(keys.shape)


def _each(draw: Callable[..., Array], **settings: object) -> Callable[[Array], Array]:
    """The draw for every image with its own key."""
    return jax.vmap(lambda key: draw(key, **settings))
