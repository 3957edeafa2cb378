"""A small ViT on the embedded synthetic scenes: the whole way from images to measured features in minutes on a CPU.

Run:      make quickstart            (or: python -m flsl_jax.main --config=configs/quickstart.py --workdir=runs/quickstart)
          make quickstart DATA=/some/folder trains on your own photos instead.
Time:     75 seconds on 2 quiet cores, 3 minutes on one busy core, compilation and measurements included.
Expect:   on held-out scenes, a mean-shift region finds an object in 56 to 61 % (untrained 9, raw pixels 5, DINO's objective in
          its place 10), and single tokens name the class in 49 to 51 % (untrained 41, raw pixels 45, DINO 56). Three seeds, in
          docs/quickstart.md with what it takes and what is missing.
"""

from ml_collections import ConfigDict

from configs import vits16

EPOCH_IMAGES = 6400

# Means over three seeds of this config as it is, by the study "methods" (docs/quickstart.md).
TWIN = (
    "DINO twin after 600 steps",
    "discovery/modes_corloc=0.103",
    "discovery/corloc=0.401",
    "bbox_knn/token=0.563",
    "bbox_knn/any=0.976",
)


def get_config() -> ConfigDict:
    """`vits16` shrunk: 64 px, 64 tokens, a small network, the embedded scenes as data and as ground truth."""
    config = vits16.get_config()
    config.batch_size = 32
    config.epochs = 3
    config.model.update({"patch_size": 8, "width": 64, "depth": 2, "num_heads": 2, "drop_path": 0.0})
    config.head.update({"hidden": 512, "bottleneck": 64, "centroids": 128})
    # The release's constants, 0.1·√384 and 0.2·√384 on this scale. At 5 and more a mode is hardly more than its own query.
    config.objective.inv_temp_scale = "mean"
    config.objective.self_inv_temp = vits16.schedule(1.96, 1.96)
    config.objective.cross_inv_temp = vits16.schedule(3.92, 3.92)
    # At the start a query hardly finds its object in the other view by its features: its place there helps, then fades.
    config.objective.projected_weight = vits16.schedule(1.0, 0.0)
    config.objective.teacher_temp = vits16.schedule(0.04, 0.04, kind="constant")
    config.views.size = 64
    # In the scenes a hue tells the class and the light does not: views change the light and leave the hue.
    config.views.update({"brightness": 0.8, "contrast": 0.8, "saturation": 0.1, "hue": 0.02})
    config.views.update({"grayscale_probability": 0.0, "blur_probability": 0.2, "solarise_probability": 0.0})
    config.data.update({"name": "scenes", "count": EPOCH_IMAGES, "scene_size": 80})
    config.optimizer.update({"lr": 6e-3, "warmup_epochs": 0.2, "freeze_last_layer_epochs": 0.0})
    config.optimizer.weight_decay = vits16.schedule(0.05, 0.05)
    config.teacher.momentum = vits16.schedule(0.98, 1.0)
    config.compute.workers = 0
    config.evaluation.update({"every_epochs": 1.0, "tasks": ("bbox_knn", "discovery", "separability")})
    config.evaluation.best_metric = "discovery/modes_corloc"
    config.evaluation.recorded = TWIN
    for held_out in (config.evaluation.discovery.data, config.evaluation.separability.data):
        held_out.update({"name": "scenes", "count": 300, "scene_size": 64, "split": "test"})
    config.evaluation.bbox_knn.train.update({"name": "scenes", "count": 50, "scene_size": 64, "split": "val"})
    config.evaluation.bbox_knn.val.update({"name": "scenes", "count": 300, "scene_size": 64, "split": "test"})
    config.checkpoint.every_epochs = 1.0
    config.logging.every_steps = 20
    return config
