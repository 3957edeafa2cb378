"""Whole fine-tuning runs: they learn, continue exactly, save on signals and refuse what is wrong in one line."""

import dataclasses
import importlib.util
import json
import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pycocotools")
pytest.importorskip("lightning_fabric")
from tests.transfer import operators

operators.install()
pytest.importorskip("torchvision")

from flax import nnx

from flsl_jax.config import ReadingConfig
from flsl_jax.config.files import load_config
from flsl_jax.errors import UserError
from flsl_jax.models import Architecture, ViT
from flsl_jax.transfer.config import TransferConfig, parse_transfer_config
from flsl_jax.transfer.networks.backbone import torch_backbone
from flsl_jax.transfer.networks.building import backbone_options, default_blocks
from flsl_jax.transfer.opening import open_backbone
from flsl_jax.transfer.training import fine_tune, open_data
from flsl_jax.workdir import read_metrics
from tests.transfer.tiny_backbones import as_loaded
from tests.weights.test_initial import random_backbone, save

KINDS = ("faster_rcnn", "mask_rcnn", "semantic_fpn")


def tiny(kind="semantic_fpn", **groups):
    """Eight scenes of 32 px to train on and to measure on."""
    values = load_config("transfer/scenes_boxes").to_dict()
    values |= {"batch_size": 2, "steps": 4, "log_every": 1}
    values["network"] |= {"kind": kind, "channels": 16}
    scenes = {"name": "scenes", "count": 6, "scene_size": 32, "split": "train"}
    for name in ("train", "val", "train_masks", "val_masks"):
        values["data"][name] |= scenes
    values["augment"] |= {"sizes": (32,), "max_size": 32, "ratio": (1.0, 1.0)}
    for name, group in groups.items():
        values[name] = values[name] | group if isinstance(group, dict) else group
    return parse_transfer_config(values)


def backbone_for(config, patch_size=8):
    arch = Architecture(patch_size=patch_size, width=32, depth=2, num_heads=2, grid=(4, 4))
    loaded = as_loaded(ViT(arch, rngs=nnx.Rngs(0)), report="random")
    options, blocks = backbone_options(config.network), default_blocks(config.network, depth=2)
    return torch_backbone(loaded, options=options, blocks=blocks)


def run(config, workdir, *, allow_changes=(), **changes):
    return fine_tune(config, backbone=backbone_for(config, **changes), workdir=workdir, allow_changes=allow_changes)


def parameters(workdir):
    return torch.load(workdir / "checkpoints" / "newest.ckpt", weights_only=True)["model"]


def test_the_base_config_writes_every_key_out_with_its_default():
    assert parse_transfer_config(load_config("transfer/base").to_dict()) == TransferConfig()
    assert load_config("transfer/base").to_dict() == dataclasses.asdict(TransferConfig())


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_stopped_and_continued_has_the_parameters_of_one_that_is_not(tmp_path, kind, monkeypatch):
    config = tiny(kind, network={"kind": kind, "channels": 16, "drop_path": 0.2})
    whole = run(config, tmp_path / "whole")
    assert (whole.step, whole.finished) == (4, True)

    from flsl_jax.training.keeping.interrupt import Interrupt

    with monkeypatch.context() as patch:
        patch.setattr(Interrupt, "requested", lambda self, step: step == 2)
        stopped = run(config, tmp_path / "stopped")
    assert (stopped.step, stopped.finished) == (2, False)
    continued = run(config, tmp_path / "stopped")
    assert continued.metrics == whole.metrics
    first, second = parameters(tmp_path / "whole"), parameters(tmp_path / "stopped")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    lines = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "stopped")]
    assert all(line.pop("images_per_sec") > 0 for run_lines in lines for line in run_lines if "loss" in line)
    assert lines[0] == lines[1]
    assert [line["step"] for line in lines[0]] == [1, 2, 3, 4, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_trains_in_half_precision_near_the_losses_of_float32(tmp_path, kind):
    """The first step's losses, on the same images with the same draws."""
    first = {}
    for precision in ("32-true", "bf16-mixed"):
        run(tiny(kind, steps=1, precision=precision), tmp_path / precision)
        first[precision] = next(line for line in read_metrics(tmp_path / precision / "metrics.jsonl") if "loss" in line)
    losses = [name for name in first["32-true"] if name.startswith("loss") or name == "cross_entropy"]
    assert len(losses) > 1
    for name in losses:
        assert first["bf16-mixed"][name] == pytest.approx(first["32-true"][name], rel=0.1, abs=0.02), name


def test_semantic_fpn_learns_a_few_scenes_by_heart(tmp_path):
    scenes = {"name": "scenes", "count": 2, "scene_size": 48, "split": "train"}
    config = tiny(
        steps=60,
        log_every=30,
        data={"train_masks": scenes, "val_masks": scenes},
        augment={"flip": 0.0, "sizes": (48,), "max_size": 48},
        optimizer={"lr": 3e-3, "warmup_steps": 5},
    )
    outcome = run(config, tmp_path)
    assert outcome.metrics["miou"] > 0.9
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["metrics"] == outcome.metrics


@pytest.mark.parametrize("split", ["train_masks", "val_masks"])
def test_masks_of_one_class_are_refused(split):
    """Scenes have eight classes and the background; all but one are ignored."""
    one = {"name": "scenes", "count": 6, "scene_size": 32, "ignore": tuple(range(1, 9))}
    two = one | {"ignore": tuple(range(2, 9))}
    data = {"train_masks": two, "val_masks": two}
    assert open_data(tiny(data=data)).num_classes == 2
    with pytest.raises(UserError, match=rf"one class alone occurs \(background; .*in config\.data\.{split}, or ignore"):
        open_data(tiny(data=data | {split: one}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": {"pyramid": "simple"}}, 'config.network.pyramid is "simple", which Semantic FPN does not have'),
        (
            {"network": {"kind": "faster_rcnn", "pyramid": "flat"}},
            'config.network.pyramid is "flat", which detectors do not have',
        ),
        ({"network": {"relative_grid": 14}}, "config.network.relative_grid is 14 without windows"),
        ({"augment": {"sizes": ()}}, "config.augment.sizes is empty"),
        ({"optimizer": {"drops": (0.9, 0.1)}}, "config.optimizer.drops"),
        ({"optimizer": {"lr": 0.0}}, "config.optimizer.lr"),
        ({"network": {"knid": "x"}}, 'did you mean "kind"'),
    ],
)
def test_a_config_that_does_not_fit_together_is_refused_by_its_key(changes, message):
    with pytest.raises(UserError, match=message):
        tiny(**changes)


def test_fewer_images_than_a_batch_and_a_simple_pyramid_on_small_patches_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"config.batch_size is 8, but scenes \(train\) has 6 images"):
        run(tiny(batch_size=8), tmp_path)
    with pytest.raises(UserError, match=r"config.network does not fit the backbone: patches of 8 pixels"):
        run(tiny("faster_rcnn", network={"kind": "faster_rcnn", "pyramid": "simple"}), tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_images_of_different_sizes_want_a_crop(tmp_path):
    with pytest.raises(UserError, match=r"different sizes; set config\.augment\.crop"):
        run(tiny(augment={"ratio": (0.5, 2.0)}), tmp_path / "whole")
    assert run(tiny(augment={"ratio": (0.5, 2.0), "crop": 32}), tmp_path / "cut").finished


def test_a_weight_file_and_random_weights_of_its_size_open_and_a_wrong_name_does_not(tmp_path):
    path = save(tmp_path / "x.safetensors", *random_backbone())
    network = tiny().network
    trained = open_backbone(path, network=network, reading=ReadingConfig(num_heads=2), seed=0).network.state_dict()
    random = open_backbone(
        f"random:{path}", network=network, reading=ReadingConfig(num_heads=2), seed=0
    ).network.state_dict()
    assert trained.keys() == random.keys()
    assert not torch.equal(trained["blocks.0.attn.qkv.weight"], random["blocks.0.attn.qkv.weight"])
    (tmp_path / "small.py").write_text(
        "from configs import quickstart\n\ndef get_config():\n    return quickstart.get_config()\n"
    )
    of_config = [
        open_backbone(f"random:{place}", network=network, reading=ReadingConfig(), seed=seed).network.state_dict()
        for place, seed in (("quickstart", 0), (tmp_path / "small.py", 0), ("quickstart", 1))
    ]
    name = "blocks.0.attn.qkv.weight"
    assert torch.equal(of_config[0][name], of_config[1][name])
    assert not torch.equal(of_config[0][name], of_config[2][name])
    for source, message in (("random", "write --backbone=random:PATH"), ("nowhere", "nowhere does not exist")):
        with pytest.raises(UserError, match=message):
            open_backbone(source, network=network, reading=ReadingConfig(), seed=0)


def test_without_torch_the_command_says_what_to_install(tmp_path):
    import subprocess

    program = (
        "import sys; sys.modules['torch'] = None; import runpy; sys.argv = ['x', '--config=transfer/scenes_pixels', "
        "'--backbone=b', '--workdir=w']; runpy.run_module('flsl_jax.transfer', run_name='__main__')"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert finished.returncode == 2
    assert "torch" in finished.stderr
    assert "transfer" in finished.stderr
    assert len(finished.stderr.strip().splitlines()) == 1
    assert importlib.util.find_spec("torch") is not None
