"""FLSL on scenes whose colours say nothing of the class: textures and shapes alone do. An open problem: it collapses.

Run:      python -m flsl_jax.main --config=configs/textures.py --workdir=runs/textures
Time:     not measured alone; four runs at once made 9,900 images/s on one NVIDIA H200, which would be two minutes for the
          1,024,000 of this one. A scene takes 4 ms of a core, so 16 workers draw 4,000 a second: save them as images first.
Expect:   every token gets the uniform distribution within 400 steps, and the monitor says so. Modes and tokens then are worse
          than raw pixels and the untrained network (docs/evidence.md has the numbers, and what was tried against it).
"""

from ml_collections import ConfigDict

from configs import vits16


def get_config() -> ConfigDict:
    """`vits16` at 128 px with patches of 8: 256 tokens, 6 blocks of width 192, 8,000 steps of 128 scenes."""
    config = vits16.get_config()
    config.batch_size = 128
    config.epochs = 40
    config.model.update({"patch_size": 8, "width": 192, "depth": 6, "num_heads": 3, "drop_path": 0.0})
    config.head.update({"hidden": 1024, "bottleneck": 128, "centroids": 512})
    # The release's constants as they act at D = 384, at every width: soft enough for a mode to be an object.
    config.objective.inv_temp_scale = "mean"
    config.objective.self_inv_temp = vits16.schedule(1.96, 1.96)
    config.objective.cross_inv_temp = vits16.schedule(3.92, 3.92)
    # At the start a query hardly finds its object in the other view by its features: its place there helps, then fades.
    config.objective.projected_weight = vits16.schedule(1.0, 0.0)
    config.objective.teacher_temp = vits16.schedule(0.04, 0.04, kind="constant")
    config.views.size = 128
    # Smaller crops, so that a place has another phase of its texture in the two views.
    config.views.student_area = (0.2, 0.6)
    # A colour tells one object of a scene from another, but not its class: views change it as much as they can. Strong blur
    # would take the textures away.
    config.views.update(
        {"brightness": 0.8, "contrast": 0.8, "saturation": 0.8, "hue": 0.5, "grayscale_probability": 0.2}
    )
    config.views.update({"blur_probability": 0.2, "blur_sigma": (0.1, 1.0)})
    config.data.update(_scenes(count=25600, size=144))
    config.optimizer.update({"lr": 1.5e-3, "warmup_epochs": 2.0, "freeze_last_layer_epochs": 0.0})
    config.optimizer.weight_decay = vits16.schedule(0.05, 0.05)
    config.teacher.momentum = vits16.schedule(0.99, 1.0)
    config.evaluation.every_epochs = 5.0
    config.evaluation.tasks = ("bbox_knn", "discovery", "separability")
    config.evaluation.best_metric = "discovery/modes_corloc"
    config.evaluation.bbox_knn.train.update(_scenes(count=200, size=128, split="val"))
    config.evaluation.bbox_knn.val.update(_scenes(count=300, size=128, split="test"))
    config.evaluation.discovery.data.update(_scenes(count=300, size=128, split="test"))
    config.evaluation.separability.data.update(_scenes(count=300, size=128, split="test"))
    config.checkpoint.every_epochs = 5.0
    return config


def _scenes(*, count: int, size: int, split: str = "train") -> dict[str, int | str]:
    return {"name": "scenes", "scene_kind": "textures", "count": count, "scene_size": size, "split": split}
