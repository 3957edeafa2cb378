"""Teacher and student views of a batch of base crops, made on the accelerator (METHOD, "Views").

Every draw is keyed by (seed, global sample index, view), so that a view does not depend on the batch, the device or the
process that makes it.
"""

import dataclasses
import functools
from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp

from flsl_jax.data import pixels
from flsl_jax.data.normalisation import IMAGENET_MEAN, IMAGENET_STD, normalise
from flsl_jax.data.resample import BOX_DRAWS, crop_resize, random_crop_box
from flsl_jax.typing import Array, Float, UInt8, UInt32

# Uniform numbers that an augmentation is made of: jitter, grayscale, blur or solarise at all (4), which half (1), strengths
# of the jitter (4), its order (4), the blur's sigma (1).
AUGMENTATION_DRAWS = 14

# Keeps the draws of the views apart from any others that are keyed by (seed, sample).
_VIEW_STREAM = 0x71E35


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Pixel augmentation, drawn anew for every view.

    `blur_and_solarise` "independent" (paper): each with its own probability. "either" (released): with probability ½
    blur with `blur_probability`, otherwise blur with `alternative_blur_probability` and solarise with its probability.
    """

    jitter_probability: float
    brightness: float
    contrast: float
    saturation: float
    hue: float
    grayscale_probability: float
    blur_probability: float
    blur_sigma: tuple[float, float]
    solarise_probability: float
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
    augmentation: Augmentation


@flax.struct.dataclass
class Views:
    """Normalised views, and what the student views are before their augmentation and where they lie in the base crop.

    `teacher` [B, T, S, S, 3]; `students`: for every group [B, V, s, s, 3]; `crops`: alike, unaugmented, in levels from 0 to
    255; `boxes`: for every group [B, V, 4], (y0, x0, y1, x1) in pixels of the base crop.
    """

    teacher: Float[Array, "B T S S 3"]
    students: tuple[Array, ...]
    crops: tuple[Array, ...]
    boxes: tuple[Array, ...]


def paper_recipe(
    *,
    size: int,
    student_area: tuple[float, float],
    aspect: tuple[float, float],
    augmentation: Augmentation,
) -> ViewRecipe:
    """Two augmented copies of the base crop for the teacher; two crops for the student, paired crosswise."""
    return ViewRecipe(
        size=size,
        teacher_views=2,
        students=(StudentViews(size=size, area=student_area, teacher_of=(1, 0)),),
        aspect=aspect,
        augmentation=augmentation,
    )


def released_recipe(
    *,
    size: int,
    local_size: int,
    student_area: tuple[float, float],
    local_area: tuple[float, float],
    aspect: tuple[float, float],
    augmentation: Augmentation,
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
        augmentation=dataclasses.replace(augmentation, blur_and_solarise="either"),
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
    count = recipe.teacher_views + sum(len(group.teacher_of) for group in recipe.students)
    draws = _uniform_draws(sample, seed=seed, views=count)
    number = recipe.teacher_views
    copies = jnp.broadcast_to(levels[:, None], (len(levels), number, *levels.shape[1:]))
    teacher = _augment_views(copies, draws[:, :number], recipe.augmentation)
    students, crops, boxes = [], [], []
    for group in recipe.students:
        own = draws[:, number : number + len(group.teacher_of)]
        box = random_crop_box(own[..., :BOX_DRAWS], size=recipe.size, area=group.area, aspect=recipe.aspect)
        crops.append(jax.vmap(functools.partial(crop_resize, levels, size=group.size), in_axes=1, out_axes=1)(box))
        students.append(_augment_views(crops[-1], own, recipe.augmentation))
        boxes.append(box)
        number += len(group.teacher_of)
    return Views(teacher=teacher, students=tuple(students), crops=tuple(crops), boxes=tuple(boxes))


def _uniform_draws(sample: UInt32[Array, " B"], *, seed: int, views: int) -> Float[Array, "B V U"]:
    """The numbers in [0, 1) that every view is made of: first its box's, then its augmentation's.

    Drawn at once: generators are a large part of what the compiler has to work through.
    """
    root = jax.random.fold_in(jax.random.key(seed), _VIEW_STREAM)

    def of_one_view(index: Array, view: Array) -> Array:
        key = jax.random.fold_in(jax.random.fold_in(root, index), view)
        return jax.random.uniform(key, (BOX_DRAWS + AUGMENTATION_DRAWS,))

    return jax.vmap(jax.vmap(of_one_view, in_axes=(None, 0)), in_axes=(0, None))(sample, jnp.arange(views))


def _augment_views(
    images: Float[Array, "B V H W 3"], draws: Float[Array, "B V U"], augmentation: Augmentation
) -> Float[Array, "B V H W 3"]:
    """Augments every view by the last of its draws; one trace for all views of a size keeps the compile time down."""
    by_view = jax.vmap(functools.partial(augment, augmentation=augmentation), in_axes=1, out_axes=1)
    return by_view(images, draws[..., BOX_DRAWS:])


def augment(
    images: Float[Array, "B H W 3"], draws: Float[Array, "B U"], *, augmentation: Augmentation
) -> Float[Array, "B H W 3"]:
    """Colour jitter, grayscale, blur, solarise and normalise, each image by its own draws; probability 0 costs nothing.

    Args:
        images: whole grey levels, 0 to 255.
        draws: uniform in [0, 1); U is `AUGMENTATION_DRAWS`.
        augmentation: probabilities and strengths.
    """
    blur_below, solarise_below = augmentation.blur_probability, augmentation.solarise_probability
    may_blur = augmentation.blur_probability > 0
    if augmentation.blur_and_solarise == "either":
        first = draws[:, 4] < 0.5
        blur_below = jnp.where(first, augmentation.blur_probability, augmentation.alternative_blur_probability)
        solarise_below = jnp.where(first, 0.0, augmentation.solarise_probability)
        may_blur = may_blur or augmentation.alternative_blur_probability > 0
    if augmentation.jitter_probability > 0:
        jittered = _jitter(images, draws[:, 5:13], augmentation)
        images = pixels.where(draws[:, 0] < augmentation.jitter_probability, jittered, images)
    if augmentation.grayscale_probability > 0:
        images = pixels.where(draws[:, 1] < augmentation.grayscale_probability, pixels.grayscale(images), images)
    if may_blur:
        low, high = augmentation.blur_sigma
        # σ = 0 changes nothing. Beside a choice of blurred or not, XLA would compute the jitter anew in what reads the choice.
        sigma = jnp.where(draws[:, 2] < blur_below, low + (high - low) * draws[:, 13], 0.0)
        images = pixels.gaussian_blur(images, sigma, max_sigma=high)
    if augmentation.solarise_probability > 0:
        images = pixels.where(draws[:, 3] < solarise_below, pixels.solarise(images), images)
    return normalise(images, mean=augmentation.mean, std=augmentation.std)


def _jitter(images: Float[Array, "B H W 3"], draws: Float[Array, "B 8"], augmentation: Augmentation) -> Array:
    """torchvision's ColorJitter: factors uniform in [max(0, 1 - s), 1 + s], hue in [-s, s], a random order.

    As there, a hue strength of 0 leaves the hue out.
    """

    def factor(number: int, strength: float) -> Array:
        low = max(0.0, 1.0 - strength)
        return low + (1.0 + strength - low) * draws[:, number]

    return pixels.color_jitter(
        images,
        order=jnp.argsort(draws[:, 4:], axis=-1),
        brightness=factor(0, augmentation.brightness),
        contrast=factor(1, augmentation.contrast),
        saturation=factor(2, augmentation.saturation),
        hue=(2.0 * draws[:, 3] - 1.0) * augmentation.hue if augmentation.hue > 0 else None,
    )
