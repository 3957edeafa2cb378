"""A Faster R-CNN on the embedded scenes: the whole way from a pretrained run to box AP on a CPU, without any images.

Run:      python -m flsl_jax.transfer --config=transfer/scenes_boxes --backbone=runs/quickstart --workdir=runs/boxes
Time:     3.5 minutes on one core of an AMD EPYC (2026-11-26).
Expect:   box AP 16.8 ± 0.9 % on the quickstart's backbone, 6.0 ± 1.3 % on random weights; docs/transfer.md.
"""

from ml_collections import ConfigDict

from configs.transfer import base


def get_config() -> ConfigDict:
    """200 scenes of 128 px to train on, 300 others to measure on; few steps."""
    config = base.get_config()
    config.update({"batch_size": 4, "steps": 300, "log_every": 20})
    config.network.channels = 64
    config.network.kind = "faster_rcnn"
    config.data.train.update({"name": "scenes", "count": 200, "scene_size": 128, "split": "train"})
    config.data.val.update({"name": "scenes", "count": 300, "scene_size": 128, "split": "test"})
    config.data.workers = 0
    config.augment.update({"sizes": (128,), "max_size": 128, "ratio": (1.0, 1.0)})
    config.optimizer.update({"lr": 3e-4, "warmup_steps": 20, "drops": (0.8, 0.95)})
    return config
