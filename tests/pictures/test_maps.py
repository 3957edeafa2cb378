"""The maps against what their definitions say, token by token."""

import jax
import numpy as np
from flax import nnx

from flsl_jax.models import Architecture, ViT
from flsl_jax.pictures.maps import aggregated_similarity, attention_maps, similarity_map


def cosine(a, b):
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_similarity_and_ass_are_what_a_loop_over_tokens_gives():
    tokens = np.random.default_rng(0).standard_normal((3, 4, 5)).astype(np.float32)
    tokens += 1.0  # most pairs alike, so that the maximum is well above 0
    rows = tokens.reshape(-1, 5)
    maps = np.array([[cosine(a, b) for b in rows] for a in rows])
    np.testing.assert_allclose(similarity_map(tokens, row=1, column=2), maps[6].reshape(3, 4), atol=1e-6)
    total = maps.sum(axis=0)
    np.testing.assert_allclose(aggregated_similarity(tokens), (total / total.max()).reshape(3, 4), atol=1e-6)


def test_ass_is_bright_where_the_region_is_large():
    tokens = np.zeros((4, 4, 2), np.float32)
    tokens[:, :3, 0] = 2.0
    tokens[:, 3:, 1] = 5.0  # 4 of 16 tokens, orthogonal to the 12 others
    score = aggregated_similarity(tokens)
    np.testing.assert_allclose(score[:, :3], 1.0, atol=1e-6)
    np.testing.assert_allclose(score[:, 3], 4 / 12, atol=1e-6)


def test_a_token_of_length_zero_gives_no_nan():
    assert np.isfinite(aggregated_similarity(np.zeros((2, 2, 3), np.float32))).all()


def test_attention_is_the_row_that_the_block_mixes_values_with():
    """Values times the maps, prefix included, are what the network's attention gives for the asked patch."""
    num_prefix = 2
    architecture = Architecture(
        patch_size=4, width=16, depth=1, num_heads=2, grid=(2, 3), pos_embed="learned", num_prefix=num_prefix
    )
    model = ViT(architecture, init_std=0.5, rngs=nnx.Rngs(0))
    images = jax.random.normal(jax.random.key(1), (1, 8, 12, 3))
    inputs = model.attention_inputs(images)
    query, key, value = (np.asarray(part)[0] for part in (inputs.query, inputs.key, inputs.value))
    maps = attention_maps(query, key, row=1, column=2, grid=(2, 3))
    place = num_prefix + 1 * 3 + 2
    full = jax.nn.softmax(np.einsum("hd,mhd->hm", query[place], key) / np.sqrt(8), axis=-1)
    np.testing.assert_allclose(maps.reshape(2, 6), full[:, num_prefix:], atol=1e-6)
    mixed = jax.nn.dot_product_attention(query[None], key[None], value[None])[0, place]
    np.testing.assert_allclose(np.einsum("hm,mhd->hd", full, value), mixed, atol=1e-5)
