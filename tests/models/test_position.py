"""Position embeddings: the named resize modes against torch and against plain loops."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import released_vits16
from flsl_jax.config import parse_config
from flsl_jax.models import ViT
from flsl_jax.models.position import resize_embedding, sincos_embedding
from flsl_jax.networks import architecture_of

GRIDS = [(6, 6), (37, 23), (16, 9), (14, 20), (28, 28)]


def embedding(grid=(14, 14), width=5):
    return np.random.default_rng(0).normal(size=(*grid, width)).astype(np.float32)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("mode", ["bicubic", "bicubic_antialias"])
def test_equals_torch(grid, mode):
    torch = pytest.importorskip("torch")
    source = embedding()
    expected = torch.nn.functional.interpolate(
        torch.tensor(source, dtype=torch.float64).permute(2, 0, 1)[None],
        size=grid,
        mode="bicubic",
        align_corners=False,
        antialias=mode == "bicubic_antialias",
    )[0].permute(1, 2, 0)
    np.testing.assert_allclose(resize_embedding(jnp.asarray(source), grid=grid, mode=mode), expected, atol=2e-6)


@pytest.mark.parametrize("grid", GRIDS)
def test_dinos_mode_equals_torch_given_its_scale(grid):
    torch = pytest.importorskip("torch")
    source = embedding()
    expected = torch.nn.functional.interpolate(
        torch.tensor(source, dtype=torch.float64).permute(2, 0, 1)[None],
        scale_factor=tuple((new + 0.1) / 14 for new in grid),
        mode="bicubic",
    )[0].permute(1, 2, 0)
    ours = resize_embedding(jnp.asarray(source), grid=grid, mode="bicubic_dino")
    np.testing.assert_allclose(ours, expected, atol=2e-6)


def kernel(x, a):
    x = abs(x)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def by_loops(source, grid, extra):
    """Bicubic interpolation with clamped edges, for torch's scale_factor (new + extra) / old: one tap after the other."""
    height, width = source.shape[:2]
    expected = np.zeros((*grid, source.shape[2]))
    for y, x in np.ndindex(*grid):
        cy, cx = (y + 0.5) * height / (grid[0] + extra) - 0.5, (x + 0.5) * width / (grid[1] + extra) - 0.5
        for j in range(int(np.floor(cy)) - 1, int(np.floor(cy)) + 3):
            for i in range(int(np.floor(cx)) - 1, int(np.floor(cx)) + 3):
                weight = kernel(cy - j, -0.75) * kernel(cx - i, -0.75)
                expected[y, x] += weight * source[min(max(j, 0), height - 1), min(max(i, 0), width - 1)]
    return expected


@pytest.mark.parametrize(("mode", "extra"), [("bicubic", 0.0), ("bicubic_dino", 0.1)])
@pytest.mark.parametrize("grid", [(6, 9), (20, 14)])
def test_bicubic_equals_plain_loops_with_clamped_edges(grid, mode, extra):
    source = embedding((14, 14), 2)
    ours = resize_embedding(jnp.asarray(source), grid=grid, mode=mode)
    np.testing.assert_allclose(ours, by_loops(source, grid, extra), atol=2e-6)


def test_the_release_sees_the_fixed_embedding_at_96_px_by_dinos_scale():
    config = parse_config(released_vits16.get_config().to_dict())
    architecture = architecture_of(config)
    side = config.views.local_size // config.model.patch_size
    tiny = dataclasses.replace(architecture, depth=1)
    network = ViT(tiny, rngs=nnx.Rngs(0))
    network.patch_embed.proj.kernel[...] = jnp.zeros_like(network.patch_embed.proj.kernel[...])
    seen = network.intermediates(jnp.zeros((1, 96, 96, 3)))[0, 0]
    fixed = sincos_embedding(grid=(14, 14), width=384)
    np.testing.assert_allclose(seen, by_loops(fixed, (side, side), 0.1), atol=2e-6)
    plain = by_loops(fixed, (side, side), 0.0)
    share = np.sqrt(np.mean(np.square(seen - plain)) / np.mean(np.square(plain)))
    assert share == pytest.approx(0.036, abs=0.002)


@pytest.mark.parametrize("mode", ["bicubic", "bicubic_antialias", "bicubic_dino"])
def test_its_own_grid_is_the_identity_and_a_constant_stays_constant(mode):
    source = jnp.asarray(embedding())
    assert resize_embedding(source, grid=(14, 14), mode=mode) is source
    ones = jnp.ones((14, 14, 1))
    np.testing.assert_allclose(resize_embedding(ones, grid=(5, 31), mode=mode), 1.0, rtol=1e-6)


def test_the_two_modes_differ_where_the_formats_say():
    source = jnp.asarray(embedding())
    plain, smooth = (resize_embedding(source, grid=(6, 6), mode=mode) for mode in ("bicubic", "bicubic_antialias"))
    assert float(jnp.abs(plain - smooth).max()) > 0.2


def test_sincos_is_sines_and_cosines_of_column_and_row():
    values = sincos_embedding(grid=(3, 5), width=8)
    for y, x in np.ndindex(3, 5):
        frequency = np.array([1.0, 0.01])
        expected = [np.sin(x * frequency), np.cos(x * frequency), np.sin(y * frequency), np.cos(y * frequency)]
        np.testing.assert_allclose(values[y, x], np.concatenate(expected), atol=1e-6)
