"""Recipes against docs/method.md, Views; draws keyed by (seed, sample) alone; views against augmentations done one by one."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from PIL import Image

from configs import vits16
from flsl_jax.config import ViewsConfig, parse
from flsl_jax.data.views import (
    AUGMENTATION_DRAWS,
    Augmentation,
    ViewRecipe,
    Views,
    augment,
    make_views,
)
from flsl_jax.training.setup import view_recipe

_SIZE, _LOCAL = 16, 8


def _recipe(name: str, **changes) -> ViewRecipe:
    """A recipe with the numbers of `vits16`, some changed."""
    values = vits16.get_config().views.to_dict() | {"recipe": name} | changes
    return view_recipe(parse(ViewsConfig, values, path="views"))


_OFF = dataclasses.replace(
    _recipe("paper").augmentation,
    jitter_probability=0.0,
    grayscale_probability=0.0,
    blur_probability=0.0,
    solarise_probability=0.0,
)
_RECIPES = {name: _recipe(name, size=_SIZE, local_size=_LOCAL) for name in ("paper", "released")}
recipes = pytest.mark.parametrize("recipe", list(_RECIPES.values()), ids=list(_RECIPES))


def _images(count: int, *, size: int = _SIZE, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


@functools.lru_cache
def _jitted(recipe: ViewRecipe, seed: int):
    return jax.jit(functools.partial(make_views, seed=seed, recipe=recipe))


def _views(images: np.ndarray, sample: np.ndarray, *, recipe: ViewRecipe, seed: int = 3) -> Views:
    return _jitted(recipe, seed)(jnp.asarray(images), jnp.asarray(sample, jnp.uint32))


def _assert_identical(actual: Views, expected: Views, *, rows: slice | np.ndarray = slice(None)) -> None:
    """The actual views are bit for bit these rows of the expected ones."""
    for left, right in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(left, np.asarray(right)[rows])


def _levels(views: np.ndarray, augmentation: Augmentation) -> np.ndarray:
    """Grey levels of normalised views."""
    return np.asarray(views) * 255 * np.array(augmentation.std) + 255 * np.array(augmentation.mean)


def test_numbers_of_the_recipes_are_the_methods() -> None:
    paper, released = _recipe("paper"), _recipe("released")
    assert (paper.size, paper.teacher_views, paper.aspect) == (224, 2, (3 / 4, 4 / 3))
    (student,) = paper.students
    assert (student.size, student.area, student.teacher_of) == (224, (0.5, 1.0), (1, 0))
    assert (released.size, released.teacher_views, released.aspect) == (224, 1, (3 / 4, 4 / 3))
    large, small = released.students
    assert (large.size, large.area, large.teacher_of) == (224, (0.5, 1.0), (0,))
    assert (small.size, small.area, small.teacher_of) == (96, (0.05, 0.4), (0, 0))
    for augmentation in (paper.augmentation, released.augmentation):
        assert (augmentation.jitter_probability, augmentation.grayscale_probability) == (0.8, 0.2)
        strengths = (augmentation.brightness, augmentation.contrast, augmentation.saturation, augmentation.hue)
        assert strengths == (0.4, 0.4, 0.2, 0.1)
        assert (augmentation.blur_probability, augmentation.blur_sigma, augmentation.solarise_probability) == (
            0.5,
            (0.1, 2.0),
            0.2,
        )
        assert augmentation.mean == (0.485, 0.456, 0.406)
        assert augmentation.std == (0.229, 0.224, 0.225)
    assert paper.augmentation.blur_and_solarise == "independent"
    assert released.augmentation.blur_and_solarise == "either"
    assert released.augmentation.alternative_blur_probability == 0.1


def test_recipes_are_static_under_jit_and_can_be_shrunk() -> None:
    assert hash(_recipe("paper")) == hash(_recipe("paper"))
    assert _recipe("released", size=64, hue=0.0).augmentation.hue == 0.0
    assert _recipe("paper", student_area=(0.3, 0.6)).students[0].area == (0.3, 0.6)


@recipes
def test_shapes_types_and_range(recipe: ViewRecipe) -> None:
    views = _views(_images(3), np.arange(3), recipe=recipe)
    assert views.teacher.shape == (3, recipe.teacher_views, _SIZE, _SIZE, 3)
    for group, students, boxes in zip(recipe.students, views.students, views.boxes, strict=True):
        assert students.shape == (3, group.count, group.size, group.size, 3)
        assert boxes.shape == (3, group.count, 4)
    for pixels in (views.teacher, *views.students):
        assert pixels.dtype == jnp.float32
        levels = _levels(pixels, recipe.augmentation)
        np.testing.assert_allclose(levels, np.clip(np.round(levels), 0, 255), atol=1e-3)


def test_base_crops_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"base crops are \(12, 12, 3\); the recipe expects \(16, 16, 3\)"):
        make_views(jnp.asarray(_images(1, size=12)), jnp.zeros(1, jnp.uint32), seed=0, recipe=_RECIPES["paper"])


def test_a_seed_that_the_device_would_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="seed is 4294967296; expected 0 to 4294967295"):
        make_views(jnp.asarray(_images(1)), jnp.zeros(1, jnp.uint32), seed=2**32, recipe=_RECIPES["paper"])


@recipes
def test_a_view_depends_on_the_seed_and_its_sample_alone(recipe: ViewRecipe) -> None:
    images, sample = _images(8), np.array([5, 0, 70_000, 2**32 - 1, 3, 9, 1, 2**31], np.uint32)
    together = _views(images, sample, recipe=recipe)
    turned = np.roll(np.arange(8), 3)
    _assert_identical(_views(images[turned], sample[turned], recipe=recipe), together, rows=turned)
    for rows in (slice(0, 3), slice(3, 6), slice(5, 8)):
        _assert_identical(_views(images[rows], sample[rows], recipe=recipe), together, rows=rows)


@recipes
def test_views_are_the_same_on_one_and_on_eight_devices_without_communication(recipe: ViewRecipe) -> None:
    images, sample = _images(16), np.arange(100, 116, dtype=np.uint32)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    split = (jax.device_put(images, sharding), jax.device_put(sample, sharding))
    compiled = _jitted(recipe, 3).lower(*split).compile()
    sharded = compiled(*split)
    assert all(leaf.sharding.is_equivalent_to(sharding, leaf.ndim) for leaf in jax.tree.leaves(sharded))
    _assert_identical(sharded, _views(images, sample, recipe=recipe))
    text = compiled.as_text()
    for collective in ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter"):
        assert collective not in text


def test_other_seeds_samples_and_views_have_other_draws() -> None:
    recipe = _recipe("released", size=_SIZE, local_size=_LOCAL, local_area=(0.5, 1.0))
    recipe = dataclasses.replace(recipe, teacher_views=2)
    image = np.repeat(_images(1), 64, axis=0)
    views = _views(image, np.arange(64), recipe=recipe)
    other = _views(image, np.arange(64), recipe=recipe, seed=4)
    assert np.mean(np.asarray(views.boxes[0]) != np.asarray(other.boxes[0])) > 0.3
    assert np.mean(np.any(views.teacher != other.teacher, axis=(1, 2, 3, 4))) > 0.9
    # Of equal images, each sample gets its own views.
    assert len({np.asarray(row).tobytes() for row in views.teacher}) > 55
    assert len({np.asarray(row).tobytes() for row in views.boxes[0]}) > 55
    # And so does each view of a sample, boxes and augmentations.
    boxes = np.concatenate([np.asarray(group) for group in views.boxes], axis=1)
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert np.mean(np.any(boxes[:, first] != boxes[:, second], axis=-1)) > 0.9
    assert np.mean(np.any(views.teacher[:, 0] != views.teacher[:, 1], axis=(1, 2, 3))) > 0.9


@recipes
def test_unaugmented_views_are_the_base_crop_and_pillows_crops_of_it(recipe: ViewRecipe) -> None:
    off = dataclasses.replace(
        _OFF, blur_and_solarise=recipe.augmentation.blur_and_solarise, alternative_blur_probability=0.0
    )
    recipe, images = dataclasses.replace(recipe, augmentation=off), _images(6)
    views = _views(images, np.arange(6), recipe=recipe)
    for view in range(recipe.teacher_views):
        np.testing.assert_allclose(_levels(views.teacher[:, view], _OFF), images, atol=1e-3)
    for group, students, boxes in zip(recipe.students, views.students, views.boxes):
        for sample in range(6):
            for view in range(group.count):
                y0, x0, y1, x1 = (int(edge) for edge in boxes[sample, view])
                window = Image.fromarray(images[sample]).crop((x0, y0, x1, y1))
                expected = np.asarray(window.resize((group.size, group.size), Image.Resampling.BICUBIC), np.float32)
                difference = np.abs(_levels(students[sample, view], _OFF) - expected)
                assert difference.max() < 3.5
                assert difference.mean() < 0.05


@recipes
def test_crops_are_the_student_views_before_their_augmentation(recipe: ViewRecipe) -> None:
    still = dataclasses.replace(
        _OFF, blur_and_solarise=recipe.augmentation.blur_and_solarise, alternative_blur_probability=0.0
    )
    images, sample = _images(5), np.arange(5)
    augmented = _views(images, sample, recipe=recipe)
    unaugmented = _views(images, sample, recipe=dataclasses.replace(recipe, augmentation=still))
    for crops, students, others in zip(augmented.crops, unaugmented.students, augmented.students, strict=True):
        np.testing.assert_allclose(crops, _levels(students, still), atol=1e-3)
        assert np.abs(crops - _levels(others, still)).max() > 50


def _augmented(count: int, augmentation: Augmentation, image: np.ndarray) -> np.ndarray:
    """Grey levels of one image under `count` keys."""
    draws = jax.random.uniform(jax.random.key(11), (count, AUGMENTATION_DRAWS))
    images = jnp.broadcast_to(jnp.asarray(image, jnp.float32), (count, *image.shape))
    return _levels(jax.jit(functools.partial(augment, augmentation=augmentation))(images, draws), augmentation)


def _share(changed: np.ndarray) -> float:
    return float(np.mean(np.any(changed, axis=(1, 2, 3))))


@pytest.mark.parametrize(
    ("name", "probability"),
    [
        ("jitter_probability", 0.8),
        ("grayscale_probability", 0.2),
        ("blur_probability", 0.5),
        ("solarise_probability", 0.2),
    ],
)
def test_each_augmentation_happens_as_often_as_it_should(name: str, probability: float) -> None:
    count, image = 4000, _images(1, size=4)[0]
    settings = {"blur_sigma": (1.0, 2.0), "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    augmented = _augmented(count, dataclasses.replace(_OFF, **{name: probability}, **settings), image)
    # Four standard deviations of a mean of `count` draws; a jitter that changes nothing is rare.
    assert abs(_share(np.abs(augmented - image) > 0.5) - probability) < 4 * np.sqrt(probability / count) * 0.9


def test_released_augmentation_blurs_and_solarises_by_halves() -> None:
    count = 8000
    bright = np.full((4, 4, 3), 10, np.uint8)
    bright[:2] = 250
    off = dataclasses.replace(_OFF, blur_sigma=(1.0, 2.0), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    either = dataclasses.replace(off, blur_probability=0.5, solarise_probability=0.2, blur_and_solarise="either")
    levels = _augmented(count, either, bright)
    blurred = np.any(np.abs(levels - np.where(levels < 128, 10, 250)) > 5.5, axis=(1, 2, 3))
    solarised = levels.max(axis=(1, 2, 3)) < 128
    tolerance = 4 * np.sqrt(0.25 / count)
    # ½ · 0.5 + ½ · 0.1 and ½ · 0.2; both together only in the second half: ½ · 0.1 · 0.2.
    assert abs(blurred.mean() - 0.30) < tolerance
    assert abs(solarised.mean() - 0.10) < tolerance
    assert abs((blurred & solarised).mean() - 0.01) < 4 * np.sqrt(0.01 / count)


@pytest.mark.parametrize(("strength", "bounds"), [(0.4, (0.6, 1.4)), (1.5, (0.0, 2.5))])
def test_brightness_is_uniform_between_its_bounds(strength: float, bounds: tuple[float, float]) -> None:
    augmentation = dataclasses.replace(
        _OFF, jitter_probability=1.0, brightness=strength, contrast=0.0, saturation=0.0, hue=0.0
    )
    factors = _augmented(3000, augmentation, np.full((2, 2, 3), 100, np.uint8))[:, 0, 0, 0] / 100
    assert bounds[0] - 0.011 <= factors.min() < bounds[0] + 0.02
    assert bounds[1] - 0.02 < factors.max() <= bounds[1]
    # Truncation to whole levels takes half a level on average.
    quartiles = np.quantile(factors, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(
        quartiles, np.interp([0.25, 0.5, 0.75], [0, 1], bounds) - 0.005, atol=0.04 * strength / 0.4
    )


def test_switched_off_augmentations_change_nothing() -> None:
    image = _images(1, size=8)[0]
    np.testing.assert_allclose(_augmented(20, _OFF, image), np.broadcast_to(image, (20, 8, 8, 3)), atol=1e-3)
    strengthless = dataclasses.replace(
        _OFF, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, jitter_probability=1.0
    )
    np.testing.assert_allclose(_augmented(20, strengthless, image), np.broadcast_to(image, (20, 8, 8, 3)), atol=1e-3)
