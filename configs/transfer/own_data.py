"""A detector or segmenter on your own images, on one GPU.

Run:      python -m flsl_jax.transfer --config=transfer/own_data --backbone=runs/mine --workdir=runs/detector
          --config.data.train.root=IMAGES --config.data.train.annotations=TRAIN.json
          --config.data.val.root=IMAGES --config.data.val.annotations=VAL.json
          That is a Faster R-CNN, for boxes. With masks of objects: --config.network.kind=mask_rcnn. With a PNG of class ids
          for each image: --config.network.kind=semantic_fpn, with .images and .masks of config.data.train_masks and .val_masks.
Time:     not measured.
Expect:   what your data give; start from the same command with --backbone=random:runs/mine to see what pretraining brings.
"""

from ml_collections import ConfigDict

from configs.transfer import base


def get_config() -> ConfigDict:
    """5,000 steps at batch 4; short sides of 480 to 800 pixels."""
    config = base.get_config()
    config.update({"batch_size": 4, "steps": 5000, "measure_every": 1000})
    config.network.update({"drop_path": 0.1})
    config.augment.update({"sizes": (480, 576, 672, 768, 800), "crop": 512})
    config.optimizer.update({"lr": 1e-4, "warmup_steps": 200, "drops": (0.7, 0.9)})
    return config
