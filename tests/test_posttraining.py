"""Post-training of published backbones: start, steps, resume, and back into the layout that they came in, token for token.

The weights are random, in the layouts of DINO, iBOT and DINOv2 (with and without registers).
"""

import dataclasses
import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import flsl_jax
from flsl_jax.checkpoints import read_checkpoint
from flsl_jax.evaluation.encoder import NetworkEncoder
from flsl_jax.evaluation.open_model import open_model
from flsl_jax.loop import train
from flsl_jax.networks import architecture_of, build_network
from flsl_jax.weights.export.exporting import ExportOptions, export
from flsl_jax.weights.initial import read_initial
from flsl_jax.weights.load import load_network
from flsl_jax.workdir import read_run_config
from tests.frameworks import import_framework
from tests.tiny import tiny_config
from tests.weights import published

torch = pytest.importorskip("torch")

# The published sizes of 32 × 32 px, 4 × 4 tokens, are trained at 48 × 48, 6 × 6 tokens, as DINOv2's 518 at 224.
SETTINGS = {
    "model": {"width": 64, "depth": 2, "num_heads": 4, "pos_grid": 4, "prefix_tokens": "keep", "drop_path": 0.1},
    "views": {"size": 48, "local_size": 16},
    "data": {"scene_size": 56},
    "optimizer": {"layer_decay": 0.7, "warmup_epochs": 0.0, "lr": 0.005},
}
DINO = {"pos_resize": "bicubic_dino"}
TOKENS = ("cls_token", "register_tokens")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A published layout.

    `golden`: its names and shapes; `prefix`, `wrapper`: of its names in the file; `model`: keys of the config; `twin`: what
    the torch twin is told; `format`: in which it goes back.
    """

    golden: str
    prefix: str = ""
    wrapper: str | None = None
    model: dict
    twin: dict
    format: str


CASES = {
    "dino": Case(
        golden=published.DINO, prefix="backbone.", wrapper="teacher", model=DINO, twin={"resize": "dino"}, format="dino"
    ),
    "ibot": Case(
        golden=published.IBOT, prefix="backbone.", wrapper="teacher", model=DINO, twin={"resize": "dino"}, format="dino"
    ),
    "dinov2": Case(
        golden=published.DINOV2, model=DINO | {"layer_scale": True}, twin={"resize": "dino"}, format="dinov2"
    ),
    "dinov2 with registers": Case(
        golden=published.DINOV2_REGISTERS,
        model={"pos_resize": "bicubic_antialias", "layer_scale": True, "num_prefix": 5},
        twin={"resize": "antialias", "tokens": TOKENS},
        format="dinov2-registers",
    ),
}


def config_of(case, path, **settings):
    return tiny_config(init_from=str(path), **SETTINGS | {"model": SETTINGS["model"] | case.model} | settings)


def backbone(state, case):
    """The state of the backbone alone, under the names of its class."""
    return {name.removeprefix(case.prefix): value for name, value in state.items() if name.startswith(case.prefix)}


def images(height, width):
    return np.random.default_rng(5).normal(size=(2, height, width, 3)).astype(np.float32)


def assert_same_tokens(model, state, case, *, atol=1e-4):
    """Of our model and of the original class, at the size of the embedding, that of the training, and an oblong one."""
    arrays = {name: np.asarray(value) for name, value in state.items()}
    for size in ((32, 32), (48, 48), (40, 64)):
        x = images(*size)
        with torch.no_grad():
            expected = published.twin_tokens(arrays, torch.tensor(x).permute(0, 3, 1, 2), **case.twin).numpy()
        np.testing.assert_allclose(np.asarray(model(jnp.asarray(x))).reshape(expected.shape), expected, atol=atol)


@pytest.fixture(scope="module", name="run", params=CASES)
def _run(request, tmp_path_factory):
    """A case, its original state dict, its file, and the workdir of a run of two steps that started from it."""
    case, folder = CASES[request.param], tmp_path_factory.mktemp("run")
    state = published.random_state(case.golden, prefix=case.prefix)
    tensors = {name: torch.tensor(value) for name, value in state.items()}
    path = folder / "original.pth"
    torch.save(tensors if case.wrapper is None else {case.wrapper: tensors}, path)
    train(config_of(case, path, stop_at_step=2), workdir=folder / "run")
    return case, state, path, folder / "run"


def test_the_start_has_the_tokens_of_the_original_class(run):
    case, state, path, _ = run
    config = config_of(case, path)
    params = jax.tree.map(jnp.asarray, read_initial(config).backbone)
    graph = nnx.split(build_network(config, rngs=nnx.Rngs(0)).backbone, nnx.Param)[0]
    assert_same_tokens(nnx.merge(graph, params), backbone(state, case), case)


def test_after_steps_it_goes_back_into_its_layout_and_has_the_tokens_of_the_original_class(run, tmp_path):
    case, state, _, workdir = run
    for network in ("teacher", "student"):
        output = tmp_path / f"{network}.pth"
        report = export(workdir, output, ExportOptions(format=case.format, network=network))
        parity = report.parities[network]
        assert parity is not None
        assert parity.holds
        content = torch.load(output, weights_only=True)
        written = content if case.wrapper is None else content[network]
        own = "module.backbone." if network == "student" and case.wrapper else case.prefix
        written = {name.removeprefix(own): tensor for name, tensor in written.items() if name.startswith(own)}
        before = backbone(state, case)
        unused = {"masked_embed"}
        assert {name: tuple(tensor.shape) for name, tensor in written.items()} == {
            name: value.shape for name, value in before.items() if name not in unused
        }
        assert_same_tokens(load_network(workdir, network=network).model, written, case)
        moved = {
            name: float(np.abs(written[name].numpy() - value).max())
            for name, value in before.items()
            if name in written
        }
        still = {name for name, distance in moved.items() if not distance}
        assert still <= {"mask_token"}
    assert_same_tokens(flsl_jax.load(output, num_heads=4), written, case)


def test_config_json_alone_rebuilds_the_network_for_evaluations(run):
    case, _, _, workdir = run
    config = read_run_config(workdir)
    model = flsl_jax.load(workdir)
    assert model.architecture == architecture_of(config)
    assert (model.architecture.num_prefix, model.architecture.grid) == (case.model.get("num_prefix", 1), (4, 4))
    opened, untrained = open_model(str(workdir)).encoder, open_model(f"untrained:{workdir}").encoder
    assert isinstance(opened, NetworkEncoder)
    assert isinstance(untrained, NetworkEncoder)
    assert opened.image_size == untrained.image_size == 48
    assert opened.num_prefix == untrained.num_prefix == model.architecture.num_prefix
    levels = np.random.default_rng(0).integers(0, 256, size=(1, 48, 48, 3), dtype=np.uint8)
    assert opened.tokens(levels).shape == untrained.tokens(levels).shape == (1, 6, 6, 64)
    saved = json.loads((workdir / "config.json").read_text())
    assert saved["model"]["prefix_tokens"] == "keep"


@pytest.mark.parametrize("run", ["dinov2 with registers"], indirect=True)
def test_a_run_continues_with_its_prefix_tokens_when_the_file_is_gone(run, tmp_path):
    case, _, path, workdir = run
    whole = config_of(case, path, stop_at_step=3)
    train(whole, workdir=tmp_path / "whole")
    shutil.copytree(workdir, tmp_path / "parts")
    elsewhere = shutil.move(path, tmp_path / "elsewhere.pth")
    try:
        train(whole, workdir=tmp_path / "parts")
    finally:
        shutil.move(elsewhere, path)
    (_, parts, _), (_, expected, _) = (read_checkpoint(tmp_path / name / "checkpoints") for name in ("parts", "whole"))
    chex.assert_trees_all_equal(parts, expected)


def test_the_projects_own_class_loads_it_strictly_where_it_is_installed(run, tmp_path):
    case, _, _, workdir = run
    import_framework("dinov2.models.vision_transformer" if "dinov2" in case.format else "vision_transformer")
    report = export(workdir, tmp_path / "x.pth", ExportOptions(format=case.format))
    for size in ((32, 32), (48, 48), (40, 64)):
        names = {"images": torch.tensor(images(*size)).permute(0, 3, 1, 2)}
        exec(report.snippet, names)
        ours = np.asarray(flsl_jax.load(workdir)(jnp.asarray(images(*size))))
        np.testing.assert_allclose(names["tokens"].detach().numpy(), ours.reshape(2, -1, 64), rtol=1e-4, atol=1e-4)
