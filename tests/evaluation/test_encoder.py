"""Encoders against the model that they wrap, on one device and on all."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from flsl_jax.data.normalisation import IMAGENET_MEAN, IMAGENET_STD
from flsl_jax.evaluation.encoder import Encoder, LayeredEncoder, NetworkEncoder, NoEncoder, PixelEncoder, watched
from flsl_jax.models import Architecture, ViT

ARCHITECTURE = Architecture(patch_size=8, width=16, depth=2, num_heads=2, grid=(4, 4), num_prefix=1)
IMAGES = np.random.default_rng(0).integers(0, 256, (8, 32, 48, 3), dtype=np.uint8)


def test_a_network_encoder_is_the_model_on_normalised_images():
    model = ViT(ARCHITECTURE, rngs=nnx.Rngs(0))
    encoder = NetworkEncoder(model, name="tiny")
    levels = jnp.float32((IMAGES / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD))
    tokens = encoder.tokens(IMAGES)
    assert (encoder.patch_size, encoder.image_size, tokens.shape) == (8, 32, (8, 4, 6, 16))
    np.testing.assert_allclose(tokens, model(levels), atol=1e-5)
    np.testing.assert_allclose(encoder.layers(IMAGES), model.intermediates(levels), atol=1e-5)
    keys = encoder.attention_inputs(IMAGES, block=0).key
    np.testing.assert_allclose(keys, model.attention_inputs(levels, block=0).key, atol=1e-5)


def test_a_batch_that_the_devices_divide_is_spread_and_gives_the_same_tokens():
    encoder = NetworkEncoder(ViT(ARCHITECTURE, rngs=nnx.Rngs(0)), name="tiny")
    spread, alone = encoder.tokens(IMAGES), encoder.tokens(IMAGES[:3])
    assert len(spread.sharding.device_set) == jax.local_device_count() == 8
    np.testing.assert_allclose(spread[:3], alone, atol=1e-5)


def test_other_levels_give_other_tokens():
    model = ViT(ARCHITECTURE, rngs=nnx.Rngs(0))
    halves = NetworkEncoder(model, name="timm", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    np.testing.assert_allclose(halves.tokens(IMAGES[:1]), model(jnp.float32(IMAGES[:1] / 127.5 - 1)), atol=1e-5)


def test_pixels_are_the_patches_levels():
    tokens = PixelEncoder(patch_size=8, image_size=32).tokens(IMAGES)
    assert tokens.shape == (8, 4, 6, 192)
    np.testing.assert_allclose(tokens[3, 1, 2], IMAGES[3, 8:16, 16:24].reshape(-1) / 255 - 0.5, atol=1e-6)


def test_what_has_layers_says_so():
    network = NetworkEncoder(ViT(ARCHITECTURE, rngs=nnx.Rngs(0)), name="tiny", inv_temp=0.5)
    pixels = PixelEncoder(patch_size=8, image_size=32)
    assert [isinstance(encoder, Encoder) for encoder in (network, pixels, NoEncoder())] == [True] * 3
    assert [isinstance(encoder, LayeredEncoder) for encoder in (network, pixels, NoEncoder())] == [True, False, False]


def test_a_watched_encoder_announces_each_batch_and_is_the_same_otherwise():
    seen = []
    network = NetworkEncoder(ViT(ARCHITECTURE, rngs=nnx.Rngs(0)), name="tiny", inv_temp=0.5)
    pixels = PixelEncoder(patch_size=8, image_size=32)
    for encoder in (network, pixels):
        found = watched(encoder, seen.append)
        for key in ("name", "patch_size", "image_size", "blank", "inv_temp"):
            assert getattr(found, key) == getattr(encoder, key)
        np.testing.assert_array_equal(found.tokens(IMAGES[:3]), encoder.tokens(IMAGES[:3]))
        assert isinstance(found, LayeredEncoder) == isinstance(encoder, LayeredEncoder)
    layered = watched(network, seen.append)
    assert (layered.depth, layered.num_prefix) == (2, 1)
    np.testing.assert_array_equal(layered.layers(IMAGES[:2]), network.layers(IMAGES[:2]))
    keys = layered.attention_inputs(IMAGES[:4], block=0).key
    np.testing.assert_array_equal(keys, network.attention_inputs(IMAGES[:4], block=0).key)
    assert seen == [3, 3, 2, 4]
