"""A small ViT on the embedded synthetic scenes: shows on a 2-core CPU, in minutes, that the features get better.

Run:      make quickstart            (or: python -m flsl_jax.main --config=configs/quickstart.py --workdir=runs/quickstart)
          make quickstart DATA=/some/folder trains on your own photos instead.
"""

from ml_collections import ConfigDict

from configs import vits16


def get_config() -> ConfigDict:
    """`vits16` shrunk: 64 px, 64 tokens, a small network, the embedded scenes as data and as ground truth."""
    config = vits16.get_config()
    config.batch_size = 64
    config.epochs = 10
    config.model.update({"patch_size": 8, "width": 96, "depth": 3, "num_heads": 3, "drop_path": 0.0})
    config.head.update({"hidden": 512, "bottleneck": 64, "centroids": 128})
    config.objective.self_inv_temp = vits16.schedule(0.3, 0.3)
    config.objective.cross_inv_temp = vits16.schedule(0.6, 0.6)
    config.objective.teacher_temp = vits16.schedule(0.04, 0.04, kind="constant")
    config.views.size = 64
    config.data.update({"name": "scenes", "count": 4096, "scene_size": 80})
    config.optimizer.update({"lr": 8e-3, "warmup_epochs": 1.0, "freeze_last_layer_epochs": 0.0})
    config.optimizer.weight_decay = vits16.schedule(0.05, 0.05)
    config.teacher.momentum = vits16.schedule(0.98, 1.0)
    config.compute.workers = 0
    config.evaluation.every_epochs = 5.0
    config.evaluation.train.update({"name": "scenes", "count": 1000, "scene_size": 64, "split": "val"})
    config.evaluation.val.update({"name": "scenes", "count": 300, "scene_size": 64, "split": "test"})
    config.checkpoint.every_epochs = 2.0
    config.logging.every_steps = 10
    return config
