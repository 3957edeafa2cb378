"""The quickstart's small ViT on a folder of your own photos: a first look in minutes on a CPU, not a model to keep.

Run:      make quickstart DATA=/some/folder
          (or: python -m flsl_jax.main --config=configs/photos.py --workdir=runs/photos --config.data.root=/some/folder)
Time:     about a minute on 2 quiet cores for any number of photos: 600 steps, that is 19,200 crops of them.
Expect:   features that follow colour and light. Nothing is measured, because there is no ground truth.

Its mean-shift is sharp, so that a mode is hardly more than its own query: in a short training on photos, modes as soft as the
quickstart's lost what single tokens knew (docs/evidence.md). The monitor says that it is hard (`hard_attention`).
"""

from ml_collections import ConfigDict

from configs import quickstart, vits16


def get_config() -> ConfigDict:
    """`quickstart` without scenes and their ground truth."""
    config = quickstart.get_config()
    config.objective.inv_temp_scale = "sum"
    config.objective.self_inv_temp = vits16.schedule(4.0, 4.0)
    config.objective.cross_inv_temp = vits16.schedule(4.0, 4.0)
    config.data.name = "folder"
    config.epoch_images = quickstart.EPOCH_IMAGES
    config.evaluation.update({"every_epochs": 0.0, "recorded": ()})
    return config
