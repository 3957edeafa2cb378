"""Weights in several files: equal to those of one file; damaged indices and other frameworks' folders are one line."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from flsl_jax.errors import UserError
from flsl_jax.weights.load import load_network
from flsl_jax.weights.reading.files import read_weights
from flsl_jax.weights.reading.importing import import_weights
from tests.weights import published
from tests.weights.published import random_state

NAMES = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture(name="folder")
def _folder(tmp_path):
    """A backbone in two shards with an index, and the same in one file, `whole.safetensors`, elsewhere."""
    state = random_state(published.DINOV2)
    folder = tmp_path / "sharded"
    folder.mkdir()
    places = {name: NAMES[number % 2] for number, name in enumerate(state)}
    for shard in NAMES:
        save_file({name: state[name] for name, place in places.items() if place == shard}, folder / shard)
    write_index(folder, places)
    save_file(state, tmp_path / "whole.safetensors")
    return folder


def write_index(folder, places):
    content = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))


def read_index(folder):
    return json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]


def test_shards_of_safetensors_are_the_one_file(folder):
    whole = import_weights(folder.parent / "whole.safetensors", num_heads=4)
    for path in (folder, folder / "model.safetensors.index.json"):
        found = import_weights(path, num_heads=4)
        assert found.path == folder / "model.safetensors.index.json"
        assert found.architecture == whole.architecture
        assert found.backbone.keys() == whole.backbone.keys()
        assert all(np.array_equal(tensor, whole.backbone[name]) for name, tensor in found.backbone.items())


def test_shards_of_torch_are_read_by_their_index(tmp_path):
    torch = pytest.importorskip("torch")
    state = random_state(published.DINOV2)
    places = {name: f"pytorch_model-0000{1 + number % 2}-of-00002.bin" for number, name in enumerate(state)}
    for shard in set(places.values()):
        part = {name: torch.tensor(state[name]) for name, place in places.items() if place == shard}
        torch.save(part, tmp_path / shard)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert read_weights(tmp_path).tensors.keys() == state.keys()
    assert import_weights(tmp_path, num_heads=4).architecture.depth == 2


def refusal(path):
    """The one line by which a path is refused."""
    with pytest.raises(UserError) as caught:
        load_network(path, num_heads=4)
    (line,) = str(caught.value).splitlines()
    return line


def test_a_tensor_is_taken_from_the_shard_that_the_index_names(folder):
    places = read_index(folder)
    name = next(name for name, place in places.items() if place == NAMES[0])
    old = {tensor: np.zeros_like(values) for tensor, values in random_state(published.DINOV2).items() if tensor == name}
    save_file(dict(read_weights(folder.parent / "whole.safetensors").tensors) | old, folder / NAMES[1])
    assert read_weights(folder).tensors[name].any()


def test_a_shard_that_is_missing_or_lacks_tensors_is_named(folder):
    index = folder / "model.safetensors.index.json"
    assert f"is one of 2 shards; name {index}, or the folder" in refusal(folder / NAMES[0])
    places = read_index(folder)
    write_index(folder, places | {"other": NAMES[0]})
    assert f"{NAMES[0]} lacks other, which {index.name} says is in it" in refusal(folder)
    (folder / NAMES[1]).unlink()
    assert f"names 2 shards, and 1 are missing ({NAMES[1]})" in refusal(folder)
    index.unlink()
    assert f"is one of 2 shards; {index.name}, which lists them, is not beside it" in refusal(folder / NAMES[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no index of shards"),
        ('["a"]', "is no index of shards"),
        ("[" * 100_000, "is no index of shards"),
        ('{"weight_map": {}}', "names no files"),
        ('{"weight_map": {"norm.weight": "../../etc/passwd"}}', "names files elsewhere (../../etc/passwd)"),
        ('{"weight_map": {"norm.weight": "/etc/passwd"}}', "names files elsewhere"),
    ],
)
def test_a_damaged_or_hostile_index_is_one_line(folder, content, message):
    (folder / "model.safetensors.index.json").write_text(content)
    assert message in refusal(folder)


def test_folders_that_other_trainings_save_in_parts_say_how_they_are_joined(tmp_path):
    parts = tmp_path / "step_100"
    parts.mkdir()
    for name in ("__0_0.distcp", ".metadata"):
        (parts / name).write_bytes(b"x")
    for path in (parts, tmp_path, parts / "__0_0.distcp"):
        assert f"{parts} is a distributed checkpoint of PyTorch" in refusal(path)
        assert f"dcp_to_torch {parts} weights.pth" in refusal(path)
    deep = tmp_path / "deep" / "global_step7"
    deep.mkdir(parents=True)
    (deep / "mp_rank_00_model_states.pt").write_bytes(b"x")
    assert f"{deep} is a checkpoint of DeepSpeed" in refusal(deep)
    assert "zero_to_fp32.py" in refusal(deep)
