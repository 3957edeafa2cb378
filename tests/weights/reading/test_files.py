"""Weight files: read whole with their types, and every bad one refused in one line that says what it is."""

import argparse
import json
import os
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from flsl_jax.errors import UserError
from flsl_jax.weights.reading.files import read_weights

TENSORS = {
    "norm.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.array([1.5, -2.25], np.float16),
    "brain": np.array([1.5, -2.25, 3e38], ml_dtypes.bfloat16),
}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        np.testing.assert_array_equal(found[name], tensor)


def refused(path):
    with pytest.raises(UserError) as caught:
        read_weights(path)
    message = str(caught.value)
    assert str(path) in message
    assert len(message.splitlines()) == 1
    return message


def test_safetensors_are_read_with_metadata_and_every_type(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors", metadata={"step": "7"})
    file = read_weights(tmp_path / "model.safetensors")
    assert_same(file.tensors, TENSORS)
    assert file.metadata == {"step": "7"}


def test_a_folder_is_its_weights_with_the_config_beside_them(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "num_attention_heads": 3}))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5, 0.5, 0.5]}))
    file = read_weights(tmp_path)
    assert file.path == tmp_path / "model.safetensors"
    assert file.config["num_attention_heads"] == 3
    assert file.preprocessor["image_mean"] == [0.5, 0.5, 0.5]


def test_a_config_of_a_training_run_is_not_taken_for_a_models(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model": {"num_heads": 3}}))
    assert read_weights(tmp_path / "model.safetensors").config == {}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_torch_files_are_read_flat_without_optimizer_and_arguments(tmp_path, suffix, zipped):
    torch = pytest.importorskip("torch")
    content = {
        "teacher": {"norm.weight": torch.nn.Parameter(torch.arange(6.0).reshape(3, 2).T)},
        "brain": torch.tensor([1.5, -2.25], dtype=torch.bfloat16),
        "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}},
        "args": argparse.Namespace(arch="vit_small"),
        "epoch": 3,
    }
    path = tmp_path / f"checkpoint{suffix}"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    file = read_weights(path)
    expected = {
        "teacher.norm.weight": np.arange(6, dtype=np.float32).reshape(3, 2).T,
        "brain": np.array([1.5, -2.25], ml_dtypes.bfloat16),
    }
    assert_same(file.tensors, expected)
    assert file.others == ("optimizer", "args", "epoch")


class WantsCode:
    """Unpickled, it would make a folder."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_a_pickle_that_wants_code_run_is_refused_and_not_run(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "evil.pth"
    torch.save({"model": {"norm.weight": torch.ones(2)}, "hook": WantsCode(tmp_path / "made")}, path)
    assert "wants to run code (posix.mkdir), which is refused" in refused(path)
    assert not (tmp_path / "made").exists()


def test_a_whole_pickled_module_is_refused_with_what_to_save_instead(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    assert "torch.save(model.state_dict(), FILE)" in refused(tmp_path / "module.pth")


@pytest.mark.parametrize("kept", [5, 40, -4])
def test_a_truncated_safetensors_file(tmp_path, kept):
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path)
    path.write_bytes(path.read_bytes()[:kept])
    assert "truncated" in refused(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("kept", [100, -60])
def test_a_truncated_torch_file(tmp_path, zipped, kept):
    torch = pytest.importorskip("torch")
    path = tmp_path / "model.pth"
    torch.save({"norm.weight": torch.ones(100)}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:kept])
    message = refused(path)
    assert "truncated" in message or "not one of tensors" in message


def test_torch_missing_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "model.pth"
    path.write_bytes(b"\x80\x02}q\x00.")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install torch" in refused(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"hello", "is not a weight file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
        (b"GGUF" + bytes(100), "GGUF"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><html></html>", "a web page"),
    ],
    ids=["empty", "text", "hdf5", "gguf", "lfs", "html"],
)
def test_other_files_are_named(tmp_path, content, message):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    assert message in refused(path)


def test_archives_that_are_not_torchs(tmp_path):
    with zipfile.ZipFile(tmp_path / "texts.zip", "w") as archive:
        archive.writestr("notes.txt", "")
    assert "a zip archive, not a torch file" in refused(tmp_path / "texts.zip")


def test_torchscript_is_code(tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "scripted.pt"
    torch.save({"a": torch.ones(1)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("scripted/code/__torch__.py", "class Net(Module): ...")
    assert "TorchScript" in refused(path)


def test_torch_files_without_named_tensors(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save(torch.ones(3), tmp_path / "one.pth")
    assert "a single Tensor" in refused(tmp_path / "one.pth")
    torch.save({"epoch": 3}, tmp_path / "none.pth")
    assert "no tensors, only epoch" in refused(tmp_path / "none.pth")


def test_folders_without_weights_and_paths_that_are_not_there(tmp_path):
    assert "does not exist" in refused(tmp_path / "nowhere.pth")
    (tmp_path / "notes.txt").write_text("")
    assert "a folder without weights (notes.txt in it)" in refused(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    assert "no index of shards" in refused(tmp_path)


def test_a_config_that_is_not_json(tmp_path):
    save_file(TENSORS, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json cannot be read as JSON"):
        read_weights(tmp_path)
