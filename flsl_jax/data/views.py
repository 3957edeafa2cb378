"""Teacher and student views of a batch of base crops, made on the accelerator (docs/method.md, Views).

Every random draw is keyed by (seed, global sample index, view). A view therefore does not depend on the batch, the device
or the process that makes it.
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
from flsl_jax.data.streams import check_seed
from flsl_jax.typing import Array, Float, UInt8, UInt32

# How many uniform numbers one view's augmentation takes: whether to jitter, turn grey, blur and solarise (4), which half of
# the released recipe applies (1), the strengths of the jitter (4), its order (4), and the sigma of the blur (1).
AUGMENTATION_DRAWS = 14

# Separates the draws of the views from all others that are keyed by (seed, sample).
_VIEW_STREAM = 0x71E35


@dataclasses.dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Probabilities and strengths of the pixel augmentation, which is drawn separately for every view.

    `blur_and_solarise` = "independent" (paper): blur and solarise each have their own probability. "either" (released):
    with probability ½ the view is blurred with `blur_probability` and never solarised; otherwise it is blurred with
    `alternative_blur_probability` and solarised with `solarise_probability`.

    Strengths are torchvision's: factors of brightness, contrast and saturation lie in [1 - s, 1 + s], the shift of the hue
    in [-s, s] of a full circle. `blur_sigma` is the range of the standard deviation in pixels. `mean` and `std` normalise
    the result, channel by channel, as shares of the range from black to white.
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
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudentViews:
    """A group of `count` student views of one size in pixels, each a random crop of the base crop.

    `area` is the range of a crop's share of the base crop. View v of the group is paired with the teacher view
    `teacher_of[v]`, or with every teacher view if `teacher_of` is empty.
    """

    size: int
    area: tuple[float, float]
    count: int
    teacher_of: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewRecipe:
    """Which views are made from a base crop of `size` × `size` pixels. Hashable, so it can be a static argument of `jit`.

    A teacher view is the whole base crop, or, with `teacher_area`, a random crop of that share of it.
    """

    size: int
    teacher_views: int
    students: tuple[StudentViews, ...]
    aspect: tuple[float, float]
    augmentation: Augmentation
    teacher_area: tuple[float, float] | None = None

    @property
    def count(self) -> int:
        """All views of an image."""
        return self.teacher_views + sum(group.count for group in self.students)


@flax.struct.dataclass
class Views:
    """The views of a batch, and what is known about the student views.

    `teacher`: float32 [B, T, S, S, C], normalised. `students`: one array [B, V, s, s, C] for every group, normalised.
    `crops`: the same views before augmentation, in levels from 0 to 255. `boxes`: one array [B, V, 4] for every group: where
    each view lies, as (y0, x0, y1, x1) in pixels of the base crop.
    """

    teacher: Float[Array, "B T S S C"]
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
    """The paper's recipe: two augmented copies of the base crop for the teacher, and two crops for the student.

    Student view 1 is paired with teacher view 2, and student view 2 with teacher view 1.
    """
    return ViewRecipe(
        size=size,
        teacher_views=2,
        students=(StudentViews(size=size, area=student_area, count=2, teacher_of=(1, 0)),),
        aspect=aspect,
        augmentation=augmentation,
    )


def released_recipe(
    *,
    size: int,
    local_size: int,
    local_count: int,
    student_area: tuple[float, float],
    local_area: tuple[float, float],
    aspect: tuple[float, float],
    augmentation: Augmentation,
) -> ViewRecipe:
    """The release's recipe: one teacher view, and one large and some small student views that are all paired with it."""
    large = StudentViews(size=size, area=student_area, count=1, teacher_of=(0,))
    small = StudentViews(size=local_size, area=local_area, count=local_count, teacher_of=(0,) * local_count)
    return ViewRecipe(
        size=size,
        teacher_views=1,
        students=(large, small) if local_count else (large,),
        aspect=aspect,
        augmentation=dataclasses.replace(augmentation, blur_and_solarise="either"),
    )


def multicrop_recipe(
    *,
    size: int,
    local_size: int,
    local_count: int,
    global_area: tuple[float, float],
    local_area: tuple[float, float],
    aspect: tuple[float, float],
    augmentation: Augmentation,
) -> ViewRecipe:
    """DINO's views (Caron et al. 2021, Sec. 3.1): two large crops, which teacher and student see alike, and small ones.

    `students` are the small ones alone, each paired with both large ones.
    """
    small = StudentViews(size=local_size, area=local_area, count=local_count)
    return ViewRecipe(
        size=size,
        teacher_views=2,
        students=(small,) if local_count else (),
        aspect=aspect,
        augmentation=augmentation,
        teacher_area=global_area,
    )


def make_views(images: UInt8[Array, "B S S C"], sample: UInt32[Array, " B"], *, seed: int, recipe: ViewRecipe) -> Views:
    """Makes all views of a batch of base crops. A pure function, in which no image influences another.

    Args:
        images: base crops in levels; as many channels as the normalisation has.
        sample: global sample indices.
        seed: the seed of the run, from 0 to 2³² - 1.
        recipe: which views to make; its `size` is S.

    Raises:
        ValueError: size and channels of the base crops are not those of the recipe, or the seed has more than 32 bits.
    """
    check_seed(seed)
    expected = (recipe.size, recipe.size, len(recipe.augmentation.mean))
    if images.shape[1:] != expected:
        raise ValueError(f"base crops are {images.shape[1:]}; the recipe expects {expected}")
    levels = images.astype(jnp.float32)
    draws = _uniform_draws(sample, seed=seed, views=recipe.count)
    number = recipe.teacher_views
    own = draws[:, :number]
    if recipe.teacher_area is None:
        copies = jnp.broadcast_to(levels[:, None], (len(levels), number, *levels.shape[1:]))
    else:
        _, copies = _random_crops(levels, own, size=recipe.size, area=recipe.teacher_area, recipe=recipe)
    teacher = _augment_views(copies, own, recipe.augmentation)
    students, crops, boxes = [], [], []
    for group in recipe.students:
        own = draws[:, number : number + group.count]
        box, crop = _random_crops(levels, own, size=group.size, area=group.area, recipe=recipe)
        crops.append(crop)
        students.append(_augment_views(crop, own, recipe.augmentation))
        boxes.append(box)
        number += group.count
    return Views(teacher=teacher, students=tuple(students), crops=tuple(crops), boxes=tuple(boxes))


def _random_crops(
    levels: Float[Array, "B S S C"],
    draws: Float[Array, "B V U"],
    *,
    size: int,
    area: tuple[float, float],
    recipe: ViewRecipe,
) -> tuple[Float[Array, "B V 4"], Float[Array, "B V s s C"]]:
    """The boxes of random crops, and the crops resized to `size` pixels."""
    boxes = random_crop_box(draws[..., :BOX_DRAWS], size=recipe.size, area=area, aspect=recipe.aspect)
    return boxes, jax.vmap(functools.partial(crop_resize, levels, size=size), in_axes=1, out_axes=1)(boxes)


def _uniform_draws(sample: UInt32[Array, " B"], *, seed: int, views: int) -> Float[Array, "B V U"]:
    """The uniform numbers in [0, 1) of every view: first those for its box, then those for its augmentation.

    They are drawn in one call, because each random generator adds much to the time that compilation takes.
    """
    root = jax.random.fold_in(jax.random.key(seed), _VIEW_STREAM)

    def of_one_view(index: Array, view: Array) -> Array:
        key = jax.random.fold_in(jax.random.fold_in(root, index), view)
        return jax.random.uniform(key, (BOX_DRAWS + AUGMENTATION_DRAWS,))

    return jax.vmap(jax.vmap(of_one_view, in_axes=(None, 0)), in_axes=(0, None))(sample, jnp.arange(views))


def _augment_views(
    images: Float[Array, "B V H W C"], draws: Float[Array, "B V U"], augmentation: Augmentation
) -> Float[Array, "B V H W C"]:
    """Augments every view, with those of its draws that follow the box's.

    All views of one size share one trace, which keeps compilation short.
    """
    by_view = jax.vmap(functools.partial(augment, augmentation=augmentation), in_axes=1, out_axes=1)
    return by_view(images, draws[..., BOX_DRAWS:])


def augment(
    images: Float[Array, "B H W C"], draws: Float[Array, "B U"], *, augmentation: Augmentation
) -> Float[Array, "B H W C"]:
    """Applies colour jitter, grayscale, blur and solarise to each image by its own draws, and normalises the result.

    A step with probability 0 is not computed at all.

    Args:
        images: whole grey levels, 0 to 255.
        draws: uniform numbers in [0, 1); U is `AUGMENTATION_DRAWS`.
        augmentation: probabilities and strengths.

    Returns:
        normalised images, float32.
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
        # σ = 0 changes nothing. If we chose between blurred and unblurred images instead, XLA would compute the jitter twice.
        sigma = jnp.where(draws[:, 2] < blur_below, low + (high - low) * draws[:, 13], 0.0)
        images = pixels.gaussian_blur(images, sigma, max_sigma=high)
    if augmentation.solarise_probability > 0:
        images = pixels.where(draws[:, 3] < solarise_below, pixels.solarise(images), images)
    return normalise(images, mean=augmentation.mean, std=augmentation.std)


def _jitter(images: Float[Array, "B H W C"], draws: Float[Array, "B 8"], augmentation: Augmentation) -> Array:
    """torchvision's ColorJitter: factors uniform in [max(0, 1 - s), 1 + s], hue shift in [-s, s], in a random order.

    As in torchvision, a hue strength of 0 skips the adjustment of the hue.
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
