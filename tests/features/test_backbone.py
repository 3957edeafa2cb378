"""The loaded model: its features by hand, compiled once a shape; images of any size; what it refuses and warns of."""

import doctest
import inspect
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flsl_jax
from flsl_jax.evaluation.encoder import NetworkEncoder
from flsl_jax.features import Backbone, as_backbone
from flsl_jax.features.backbone import _check, _computed, modes_of
from flsl_jax.models import Architecture, ViT

NORMAL = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3)}


def build(seed=0, **changes):
    shape = {"patch_size": 4, "width": 16, "depth": 3, "num_heads": 2, "grid": (4, 4), "num_prefix": 2} | changes
    return as_backbone(ViT(Architecture(**shape), rngs=nnx.Rngs(seed)), **NORMAL, inv_temp=0.5)


MODEL = build()
IMAGES = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype(np.float32)


OWNERS = {"Backbone": Backbone, "preprocess": flsl_jax.preprocess, **vars(Backbone)}


@pytest.mark.parametrize("name", [name for name, owner in OWNERS.items() if ">>>" in (inspect.getdoc(owner) or "")])
def test_examples_of_the_docstrings(name, tiny_run, monkeypatch):
    monkeypatch.chdir(tiny_run)
    owner = OWNERS[name]
    model = flsl_jax.load("runs/mine")
    names = {"flsl_jax": flsl_jax, "jnp": jnp, "np": np, "model": model}
    names["images"] = flsl_jax.preprocess("photo.jpg", model)
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(owner), names, name, None, 0)
    assert example.examples
    said = []
    assert doctest.DocTestRunner().run(example, out=said.append).failed == 0, "".join(said)


def test_every_public_method_has_an_example():
    own = {name for name, value in vars(Backbone).items() if inspect.isfunction(value) and name[0] != "_"}
    assert own == {"tokens", "modes", "layers", "attention", "each"}
    assert all(">>>" in (getattr(Backbone, name).__doc__ or "") for name in own)


def test_a_model_is_the_vit_that_it_was_made_of():
    vit = ViT(MODEL.architecture, rngs=nnx.Rngs(0))
    np.testing.assert_allclose(MODEL(IMAGES), vit(jnp.asarray(IMAGES)), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(MODEL(IMAGES), MODEL.tokens(IMAGES))
    np.testing.assert_allclose(
        MODEL.intermediates(jnp.asarray(IMAGES)), vit.intermediates(jnp.asarray(IMAGES)), atol=1e-5
    )
    assert MODEL.image_size == 16
    encoder = NetworkEncoder(MODEL, name="model", **NORMAL)
    pixels = np.random.default_rng(1).integers(0, 256, (1, 8, 8, 3), np.uint8)
    np.testing.assert_allclose(encoder.tokens(pixels), MODEL(flsl_jax.preprocess(pixels, MODEL, size=0)), atol=1e-5)


def test_modes_are_those_of_the_formula_in_each_image():
    tokens = np.asarray(MODEL(IMAGES), np.float64).reshape(2, 6, 16)
    for given, factor in ((None, 0.5), (2.0, 2.0)):
        logits = factor * tokens @ tokens.swapaxes(1, 2)
        weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
        expected = weights / weights.sum(axis=-1, keepdims=True) @ tokens
        np.testing.assert_allclose(MODEL.modes(IMAGES, inv_temp=given).reshape(2, 6, 16), expected, atol=1e-5)


def test_without_a_temperature_modes_are_of_unit_tokens_at_the_root_of_the_width():
    tokens = np.asarray(MODEL(IMAGES))
    unit = tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)
    np.testing.assert_allclose(
        modes_of(jnp.asarray(tokens), inv_temp=None), modes_of(jnp.asarray(unit), inv_temp=4.0), atol=1e-5
    )
    with pytest.raises(ValueError, match="inv_temp is -1"):
        MODEL.modes(IMAGES, inv_temp=-1.0)


def test_layers_are_the_outputs_of_the_blocks_that_are_named():
    stream = MODEL.intermediates(jnp.asarray(IMAGES))
    for blocks, places in (([2, 0], [3, 1]), ([-1], [3]), ([-3, 1], [1, 2])):
        np.testing.assert_allclose(MODEL.layers(IMAGES, blocks), stream[np.array(places)], atol=1e-5)
    np.testing.assert_allclose(MODEL.layers(IMAGES, [2], norm=True)[0], MODEL(IMAGES), atol=1e-5)
    bare = build(final_norm=False)
    np.testing.assert_array_equal(bare.layers(IMAGES, [2], norm=True), bare.layers(IMAGES, [2]))
    for blocks, message in (([3], "no block 3; the model has 3"), ([-4], "no block -4"), ([], "blocks is empty")):
        with pytest.raises(flsl_jax.UserError, match=message):
            MODEL.layers(IMAGES, blocks)


def test_attention_times_the_values_is_what_the_block_mixes():
    read = MODEL.attention_inputs(jnp.asarray(IMAGES), block=1)
    attention = np.asarray(MODEL.attention(IMAGES, block=1))
    assert attention.shape == (2, 2, 8, 8)
    np.testing.assert_allclose(attention.sum(axis=-1), 1, atol=1e-5)
    expected = jax.nn.dot_product_attention(read.query, read.key, read.value)
    np.testing.assert_allclose(np.einsum("bhqk,bkhd->bqhd", attention, read.value), expected, atol=1e-5)


def test_a_shape_is_compiled_once_and_changed_parameters_count():
    model = build(width=24)
    before = _computed._cache_size()
    first = model(IMAGES)
    np.testing.assert_array_equal(model(IMAGES), first)
    assert _computed._cache_size() == before + 1
    model.norm.bias[...] = model.norm.bias[...] + 1.0
    np.testing.assert_allclose(model(IMAGES), first + 1.0, atol=1e-5)
    assert _computed._cache_size() == before + 1
    model(IMAGES[:, :4])
    assert _computed._cache_size() == before + 2


def test_it_can_be_differentiated_and_compiled_as_part_of_a_function():
    graph, params = nnx.split(MODEL, nnx.Param)

    def loss(params, images):
        return jnp.sum(jnp.sin(nnx.merge(graph, params)(images)))

    gradient = jax.jit(jax.grad(loss))(params, jnp.asarray(IMAGES))
    assert float(jnp.abs(gradient["norm"]["bias"][...]).max()) > 0


def test_each_gives_every_image_its_own_features_in_order():
    rng = np.random.default_rng(2)
    photos = [rng.integers(0, 256, (side, 16, 3), np.uint8) for side in (16, 23, 16, 40, 16, 23, 16)]
    for feature in ("tokens", "modes"):
        found = list(MODEL.each(photos, feature, batch_size=2))
        for photo, features in zip(photos, found, strict=True):
            alone = getattr(MODEL, feature)(flsl_jax.preprocess(photo, MODEL))[0]
            np.testing.assert_allclose(features, alone, atol=1e-5)
            assert isinstance(features, np.ndarray)
    pooled = list(MODEL.each(iter(photos), lambda images: {"mean": MODEL(images).mean(axis=(1, 2))}, batch_size=2))
    np.testing.assert_allclose(
        pooled[3]["mean"], MODEL(flsl_jax.preprocess(photos[3], MODEL)).mean(axis=(0, 1, 2)), atol=1e-5
    )
    with pytest.raises(flsl_jax.UserError, match="feature is 'token'; expected"):
        next(MODEL.each(photos, "token"))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 8, 8, 3), np.uint8), r"images are uint8; expected floats.*flsl_jax\.preprocess\(images, model\)"),
        (np.zeros((1, 8, 8, 3), np.int64), "images are int64"),
        (jnp.zeros((1, 8, 8, 3), bool), "images are bool"),
    ],
)
def test_what_is_no_array_of_floats_is_refused_by_every_method(images, message):
    calls = (MODEL, MODEL.tokens, MODEL.modes, MODEL.attention, lambda images: MODEL.layers(images, [0]))
    for call in calls:
        with pytest.raises(flsl_jax.UserError, match=message) as refused:
            call(images)
        assert "\n" not in str(refused.value)


def test_a_list_is_refused_too():
    with pytest.raises(flsl_jax.UserError, match=r"images are a list; .*flsl_jax\.preprocess"):
        _check([np.zeros((8, 8, 3))], MODEL)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (255 * np.abs(IMAGES), "expected about -2.5 to 2.5"),
        (jnp.linspace(0, 1, 2 * 8 * 8 * 3).reshape(2, 8, 8, 3), "as levels from 0 to 1 that were not normalised have"),
        (np.linspace(0.01, 0.9, 2 * 8 * 8 * 3).reshape(2, 8, 8, 3), "as levels from 0 to 1"),
    ],
)
def test_values_that_no_normalised_image_has_are_named_once(images, message, caplog):
    model = build(seed=1)
    with caplog.at_level(logging.WARNING):
        model(IMAGES)
        model(np.zeros_like(IMAGES))
        assert not caplog.records
        model(images)
        model(images[:1])
        model.modes(images)
    assert [message in record.getMessage() for record in caplog.records] == [True]
    assert "flsl_jax.preprocess(images, model)" in caplog.text
