"""detectron2's recipe for our weights, read without detectron2: it is the recipe of our own ViTDet."""

import functools
import runpy
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from ml_collections import ConfigDict

from flsl_jax.config.files import load_config

FILE = Path(__file__).parents[2] / "configs" / "transfer" / "detectron2" / "mask_rcnn_vitdet_b.py"
# What the file changes of detectron2's own files, by their names there.
COMMON = {
    "common/models/mask_rcnn_vitdet.py": {"model": {"backbone": {"net": {}}}},
    "common/data/coco.py": {"dataloader": {"train": {"mapper": {}}, "test": {"mapper": {}}}},
    "common/train.py": {"train": {"amp": {}, "ddp": {}}},
    "common/optim.py": {"AdamW": {"params": {}}},
}


def loose(values):
    return SimpleNamespace(**{key: loose(value) for key, value in values.items()})


class Named(ModuleType):
    """A module in which every name is that name."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return name


@pytest.fixture
def recipe(monkeypatch):
    package, names = Named("detectron2"), ("model_zoo", "config", "solver", "data", "modeling")
    modules = {f"detectron2.{name}": Named(name) for name in names}
    modules |= {"detectron2.data.transforms": Named("transforms"), "detectron2.modeling.backbone": Named("backbone")}
    vit, scheduler = Named("vit"), Named("param_scheduler")
    vit.get_vit_lr_decay_rate = lambda name, *, num_layers, lr_decay_rate: lr_decay_rate**num_layers
    modules |= {"detectron2.modeling.backbone.vit": vit, "fvcore.common.param_scheduler": scheduler}
    modules |= {"detectron2": package, "fvcore": Named("fvcore"), "fvcore.common": Named("common")}
    modules["detectron2.model_zoo"].get_config = lambda name: loose(COMMON[name])
    modules["detectron2.config"].LazyCall = lambda name: lambda **values: {"called": name} | values
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
        parent, _, own = name.rpartition(".")
        if parent:
            setattr(modules[parent], own, module)
    return runpy.run_path(str(FILE))


def test_it_is_our_own_recipe_of_table_2(recipe):
    own: ConfigDict = load_config("transfer/coco_vitdet_vitb16")
    pretraining: ConfigDict = load_config("vitb16")
    train = recipe["dataloader"].train
    assert train.total_batch_size == own.batch_size
    flip, scale, crop = train.mapper.augmentations
    assert flip == {"called": "RandomFlip", "horizontal": True}
    assert own.augment.flip == 0.5
    assert (scale["min_scale"], scale["max_scale"]) == own.augment.jitter
    sides = {scale["target_height"], scale["target_width"], *crop["crop_size"]}
    (tested,) = recipe["dataloader"].test.mapper.augmentations
    assert sides == {own.augment.max_size} == {*own.augment.sizes}
    assert tested["short_edge_length"] == tested["max_size"] == own.augment.max_size
    steps, schedule = recipe["train"].max_iter, recipe["lr_multiplier"]
    assert steps == schedule["scheduler"]["num_updates"] == own.steps
    assert round(schedule["warmup_length"] * steps) == own.optimizer.warmup_steps
    assert [milestone / steps for milestone in schedule["scheduler"]["milestones"]] == pytest.approx(
        own.optimizer.drops, abs=5e-4
    )
    decay = recipe["optimizer"].params.lr_factor_func
    assert isinstance(decay, functools.partial)
    assert decay("x") == own.optimizer.layer_decay**12
    assert pretraining.model.depth == 12
    net = recipe["model"].backbone.net
    assert net.pretrain_use_cls_token is False
    assert net.pretrain_img_size == pretraining.views.size
