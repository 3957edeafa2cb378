"""Batches of one shape over rows of any number."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from flsl_jax.evaluation.batches import images_at_once, map_stream
from flsl_jax.evaluation.encoder import PixelEncoder


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 4), max_size=6))
def test_short_batches_are_filled_up_and_no_result_is_of_what_filled_them(lengths: list[int]) -> None:
    batches = [[np.float32([[row, 10 * row]] * length), np.arange(length)] for row, length in enumerate(lengths)]
    shapes = []

    def function(x: np.ndarray, y: np.ndarray) -> dict:
        shapes.append((x.shape, y.shape))
        return {"sum": jnp.sum(jnp.asarray(x), axis=1), "more": (jnp.asarray(y), None)}

    results = list(map_stream(function, batches, batch_size=4))
    assert [len(result["sum"]) for result in results] == lengths
    for row, result in enumerate(results):
        assert isinstance(result["sum"], np.ndarray)
        assert (result["sum"] == 11 * row).all()
        np.testing.assert_array_equal(result["more"][0], batches[row][1])
    assert shapes == [((4, 2), (4,))] * len(lengths)


def test_the_next_batch_is_read_before_a_result_is_fetched_and_all_compile_once() -> None:
    traces, read = [], []

    @jax.jit
    def square(x: jax.Array) -> jax.Array:
        traces.append(1)
        return x * x

    def batches():
        for number in range(4):
            read.append(number)
            yield [np.full((3 - number % 2, 2), number, np.float32)]

    results = map_stream(square, batches(), batch_size=3)
    assert next(results).tolist() == [[0, 0]] * 3
    assert read == [0, 1]
    assert [result[0, 0] for result in results] == [1, 4, 9]
    assert len(traces) == 1


def test_fewer_large_images_go_at_once() -> None:
    encoder = PixelEncoder(patch_size=16, image_size=224)
    assert images_at_once(encoder, size=(224, 224), batch_size=256) == 256
    assert images_at_once(encoder, size=(448, 448), batch_size=256) == 16
    assert images_at_once(encoder, size=(480, 832), batch_size=256) == 8  # 4 would do; 8 devices take one each
    assert images_at_once(encoder, size=(112, 112), batch_size=256) == 256


def test_a_cpu_gets_few_images_of_many_tokens(monkeypatch) -> None:
    monkeypatch.setattr("jax.local_device_count", lambda: 1)
    encoder = PixelEncoder(patch_size=14, image_size=518)  # DINOv2's 37 × 37 tokens
    assert images_at_once(encoder, size=(518, 518), batch_size=64) == 8  # 8 · 1369² < 2²⁴ < 9 · 1369²
    assert images_at_once(encoder, size=(224, 224), batch_size=64) == 64
    assert images_at_once(encoder, size=(1036, 1036), batch_size=64) == 1
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert images_at_once(encoder, size=(518, 518), batch_size=64) == 64
