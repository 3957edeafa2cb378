"""Hostile and broken files: tensors that no network can have end in one line, soon and without much memory."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from flsl_jax.errors import UserError
from flsl_jax.weights.load import load_network
from tests.weights import published
from tests.weights.published import random_state

ONES = np.ones(64, np.float32)


def without_blocks(state):
    return {name: tensor for name, tensor in state.items() if not name.startswith("blocks.")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state | {"blocks.999999999.norm1.weight": ONES}, "no blocks.2.attn.qkv.weight"),
        (without_blocks, "no blocks"),
        (lambda state: state | {"blocks.0.mlp.fc1.weight": np.array(1, np.float32)}, r"fc1.weight \(\) instead of"),
        (lambda state: state | {"blocks.0.mlp.fc1.weight": np.ones((0, 64), np.float32)}, "0 hidden channels"),
        (lambda state: state | {"patch_embed.proj.weight": np.ones((64, 3, 0, 0), np.float32)}, "square patches"),
        (lambda state: state | {"norm.weight": ONES.astype(np.int8)}, "int8 in norm.weight; expected floats"),
        (lambda state: state | {"norm.weight": ONES > 0}, "bool in norm.weight; expected floats"),
    ],
)
def test_tensors_that_no_network_has_are_one_line(tmp_path, change, message):
    save_file(change(random_state(published.MAE_ENCODER)), tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=message) as caught:
        load_network(tmp_path / "x.safetensors", num_heads=4)
    assert len(str(caught.value).splitlines()) == 1


def test_texts_and_complex_numbers_of_an_archive_are_one_line(tmp_path):
    state = {"cls": np.ones((1, 1, 8), np.float32), "Transformer/encoderblock_0/LayerNorm_0/scale": np.ones(8)}
    state["embedding/kernel"] = np.ones((2, 2, 3, 8), np.float32)
    for other in (np.array(["x"]), np.ones(8, np.complex64)):
        np.savez(tmp_path / "x.npz", **state, **{"embedding/bias": other})
        with pytest.raises(UserError, match=r"in patch_embed\.proj\.bias; expected floats"):
            load_network(tmp_path / "x.npz")
