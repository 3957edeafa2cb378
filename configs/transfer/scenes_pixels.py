"""Semantic FPN on the embedded scenes: the whole way from a pretrained run to mIoU on a CPU, without any images.

Run:      python -m flsl_jax.transfer --config=transfer/scenes_pixels --backbone=runs/quickstart --workdir=runs/pixels
Time:     about three minutes on one core of a CPU, measurement included.
Expect:   mIoU 47.8 % on the quickstart's backbone, 45.4 % on random weights; means of three seeds, docs/transfer.md.
"""

from ml_collections import ConfigDict

from configs.transfer import base


def get_config() -> ConfigDict:
    """200 scenes of 128 px to train on, 300 others to measure on; few steps."""
    config = base.get_config()
    config.update({"batch_size": 4, "steps": 300, "log_every": 20})
    config.network.channels = 64
    config.network.kind = "semantic_fpn"
    config.data.train_masks.update({"name": "scenes", "count": 200, "scene_size": 128, "split": "train"})
    config.data.val_masks.update({"name": "scenes", "count": 300, "scene_size": 128, "split": "test"})
    config.data.workers = 0
    config.augment.update({"sizes": (128,), "max_size": 128, "ratio": (1.0, 1.0)})
    config.optimizer.update({"lr": 3e-4, "warmup_steps": 20, "schedule": "poly"})
    return config
