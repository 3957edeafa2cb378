"""What a user tells of a weight file: which backbone of several, and the grid of its positions."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from flsl_jax.config import ReadingConfig, check_grid
from flsl_jax.errors import UserError
from flsl_jax.evaluation.open_model import open_model
from flsl_jax.weights.export.trained import read_trained
from flsl_jax.weights.load import load_network
from flsl_jax.weights.reading.importing import import_weights
from tests.weights import published
from tests.weights.published import random_state

SIDES = ("student", "teacher", "probe")


@pytest.fixture(name="lightning")
def _lightning(tmp_path):
    """A file as a training with Lightning leaves one: three backbones below `state_dict.model.`."""
    state = {}
    for seed, side in enumerate(SIDES):
        own = random_state(published.DINOV2, seed=seed)
        state |= {f"state_dict.model.{side}.backbone.{name}": tensor for name, tensor in own.items()}
    save_file(state, tmp_path / "lightning.safetensors")
    return tmp_path / "lightning.safetensors"


@pytest.mark.parametrize(
    ("told", "side"),
    [
        ({}, "teacher"),
        ({"network": "student"}, "student"),
        ({"prefix": "model.student.backbone."}, "student"),
        ({"prefix": "model.probe"}, "probe"),
        ({"prefix": "probe.backbone", "network": "student"}, "probe"),
        ({"prefix": "state_dict.model.student.backbone."}, "student"),
    ],
)
def test_a_prefix_chooses_among_several_backbones(lightning, told, side):
    expected = random_state(published.DINOV2, seed=SIDES.index(side))["norm.weight"]
    imported = import_weights(lightning, num_heads=4, **told)
    np.testing.assert_array_equal(imported.backbone["norm.weight"], expected)
    assert sum(reason == "another network" for reason in imported.unused.values()) == 2 * len(
        random_state(published.DINOV2)
    )


def test_a_prefix_that_no_name_has_is_refused_with_those_that_are_there(lightning):
    with pytest.raises(
        UserError, match=r"begins with 'modle\.'; prefixes of backbones in it: .*model\.probe\.backbone\."
    ):
        import_weights(lightning, prefix="modle.")


@pytest.mark.parametrize("asked", ["model.probe.backbone.blocks", "probe.backbone.patch_embed", "obe.backbone", "."])
def test_a_prefix_that_is_no_backbones_is_refused(lightning, asked):
    with pytest.raises(
        UserError, match=r"no backbone of .* begins with '.*'; prefixes of backbones in it: state_dict\."
    ):
        import_weights(lightning, prefix=asked)


def test_what_is_beside_a_backbone_is_left_out_once_its_prefix_is_told(tmp_path):
    state = random_state(published.DINOV2)
    others = {name: np.ones(3, np.float32) for name in ("projector.0.weight", "memory")}
    save_file({f"model.backbone.{name}": t for name, t in state.items()} | others, tmp_path / "x.safetensors")
    with pytest.raises(
        UserError,
        match=r"unknown memory; unknown projector.0.weight; prefix=model.backbone. leaves out what is beside it$",
    ):
        import_weights(tmp_path / "x.safetensors", num_heads=4)
    imported = import_weights(tmp_path / "x.safetensors", num_heads=4, prefix="model.backbone.")
    assert {name for name, reason in imported.unused.items() if reason == "another network"} == others.keys()
    np.testing.assert_array_equal(imported.backbone["norm.weight"], state["norm.weight"])


@pytest.mark.parametrize("other", ["norm.weight", "backbone._orig_mod.norm.weight"])
def test_two_tensors_of_which_each_would_be_the_same_one_are_refused(tmp_path, other):
    state = {f"backbone.{name}": tensor for name, tensor in random_state(published.DINOV2).items()}
    save_file(state | {other: np.ones(64, np.float32)}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=r"two names of one tensor \((backbone\.)?norm\.weight\)"):
        import_weights(tmp_path / "x.safetensors", num_heads=4)


def test_commands_hand_on_what_is_told(lightning):
    told = ReadingConfig(prefix="model.probe.", num_heads=4)
    expected = random_state(published.DINOV2, seed=2)["norm.weight"]
    trained = read_trained(lightning, networks=("teacher",), reading=told)
    np.testing.assert_array_equal(trained.backbones["teacher"]["norm.weight"], expected)
    images = np.zeros((1, 32, 32, 3), np.uint8)
    loaded = load_network(lightning, prefix="model.probe.", num_heads=4)
    expected = loaded.model(-np.broadcast_to(np.float32(loaded.mean) / np.float32(loaded.std), images.shape))
    found = open_model(str(lightning), reading=told).encoder.tokens(images)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def positions(count):
    return np.random.default_rng(0).normal(size=(1, count, 64)).astype(np.float32)


def with_positions(path, count, **changes):
    state = random_state(published.MAE_ENCODER) | {"pos_embed": positions(count)}
    save_file({name: tensor for name, tensor in (state | changes).items() if tensor is not None}, path)
    return path


def test_positions_that_two_grids_explain_are_refused_until_one_is_told(tmp_path):
    path = with_positions(tmp_path / "x.safetensors", 225)
    with pytest.raises(
        UserError, match=r"225 positions .* 15×15 patches, or 14×16 .* grid=\(15, 15\) or grid=\(14, 16\)"
    ):
        import_weights(path, num_heads=4)
    square, oblong = (import_weights(path, num_heads=4, grid=grid) for grid in ((15, 15), (14, 16)))
    assert (square.architecture.grid, oblong.architecture.grid) == ((15, 15), (14, 16))
    # The token has a position of its own with the second alone.
    places = positions(225)
    token = random_state(published.MAE_ENCODER)["cls_token"][0, 0]
    np.testing.assert_array_equal(square.backbone["prefix"][0, 0], token)
    np.testing.assert_allclose(oblong.backbone["prefix"][0, 0], token + places[0, 0], rtol=1e-6)
    np.testing.assert_array_equal(oblong.backbone["pos_embed"][0], places[0, 1:])


def test_positions_are_not_in_doubt_where_one_grid_alone_explains_them(tmp_path):
    for count, grid, changes in ((226, (15, 15), {}), (225, (15, 15), {"cls_token": None})):
        path = with_positions(tmp_path / f"{count}.safetensors", count, **changes)
        assert import_weights(path, num_heads=4).architecture.grid == grid
    path = with_positions(tmp_path / "oblong.safetensors", 6 * 9 + 1)
    with pytest.raises(UserError, match=r"55 positions, which are not a square .*; pass their grid=\(rows, columns\)"):
        import_weights(path, num_heads=4)
    assert import_weights(path, num_heads=4, grid=(6, 9)).architecture.grid == (6, 9)
    with pytest.raises(UserError, match="55 positions, which are not 5×9"):
        import_weights(path, num_heads=4, grid=(5, 9))


def test_a_distillation_token_has_a_position_of_its_own(tmp_path):
    # 226 are 14×16 and those of the two tokens, and not 15×15 and that of one.
    path = with_positions(tmp_path / "x.safetensors", 226, dist_token=np.ones((1, 1, 64), np.float32))
    with pytest.raises(UserError, match=r"226 positions, which are not a square of patches and 2 other tokens"):
        import_weights(path, num_heads=4)
    assert import_weights(path, num_heads=4, grid=(14, 16)).architecture.num_prefix == 2


@pytest.mark.parametrize("grid", [(0, 5), (5,), (1, 2, 3), 5, (2.5, 2), (True, 2), "44"])
def test_a_wrong_grid_is_one_line(grid):
    with pytest.raises(UserError, match=r"grid is .*; expected rows and columns of patches, such as \(14, 16\)"):
        check_grid(grid)
