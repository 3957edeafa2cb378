"""Batches of one shape over rows of any number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from flsl_jax.evaluation.batches import images_at_once, map_batches
from flsl_jax.evaluation.encoder import PixelEncoder


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 23), st.integers(1, 9))
def test_the_batch_size_changes_no_result(length: int, batch_size: int) -> None:
    x, y = np.arange(3 * length, dtype=np.float32).reshape(length, 3), np.arange(length, dtype=np.int32)
    shapes = []

    def function(x: np.ndarray, y: np.ndarray) -> dict:
        shapes.append((x.shape, y.shape))
        return {"sum": jnp.sum(jnp.asarray(x), axis=1), "more": (jnp.asarray(y), None)}

    result = map_batches(function, (x, y), batch_size=batch_size)
    np.testing.assert_array_equal(result["sum"], x.sum(axis=1))
    np.testing.assert_array_equal(result["more"][0], y)
    assert isinstance(result["sum"], np.ndarray)
    assert set(shapes) == {((batch_size, 3), (batch_size,))}


def test_batches_are_laid_out_as_asked_and_compiled_once() -> None:
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    traces, layouts = [], []

    @jax.jit
    def square(x: jax.Array) -> jax.Array:
        traces.append(1)
        return x * x

    def function(x: jax.Array) -> jax.Array:
        layouts.append(x.sharding)
        return square(x)

    x = np.arange(40, dtype=np.float32).reshape(20, 2)
    np.testing.assert_array_equal(map_batches(function, (x,), batch_size=16, sharding=sharding), x * x)
    assert layouts == [sharding] * 2
    assert len(traces) == 1


@pytest.mark.parametrize("lengths", [(0,), (3, 4)])
def test_no_rows_or_different_lengths_are_refused(lengths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected one length, at least 1"):
        map_batches(lambda *rows: rows[0], [np.zeros(length) for length in lengths], batch_size=2)


def test_fewer_large_images_go_at_once() -> None:
    encoder = PixelEncoder(patch_size=16, image_size=224)
    assert images_at_once(encoder, size=(224, 224), batch_size=256) == 256
    assert images_at_once(encoder, size=(448, 448), batch_size=256) == 16
    assert images_at_once(encoder, size=(480, 832), batch_size=256) == 8  # 4 would do; 8 devices take one each
    assert images_at_once(encoder, size=(112, 112), batch_size=256) == 256
