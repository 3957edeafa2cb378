"""Mask R-CNN on COCO with ViT-S/16 and SelfPatch's pyramid: the paper's Table 1.

Run:      torchrun --nproc_per_node=8 -m flsl_jax.transfer --config=transfer/coco_maskrcnn_vits16 --backbone=runs/vits16
          --workdir=runs/coco --config.data.train.root=train2017 --config.data.train.annotations=instances_train2017.json
          --config.data.val.root=val2017 --config.data.val.annotations=instances_val2017.json
Time:     not measured: no run of this size was made.
Expect:   the paper has box AP 44.9 and mask AP 40.8 (DINO 40.8 and 37.3), with mmdetection; not reproduced by us.
"""

from ml_collections import ConfigDict

from configs.transfer import base


def get_config() -> ConfigDict:
    """12 epochs of 118,287 images at batch 16; the rate drops after epochs 8 and 11."""
    config = base.get_config()
    config.steps = 88_716
    config.network.update({"kind": "mask_rcnn", "blocks": (3, 5, 7, 11), "drop_path": 0.05})
    config.augment.update({"sizes": tuple(range(480, 801, 32)), "max_size": 1333, "cut": 0.5})
    config.optimizer.update({"lr": 5e-5, "weight_decay": 0.05, "decay_norms": False})
    config.optimizer.update({"warmup_steps": 1000, "drops": (8 / 12, 11 / 12)})
    config.precision = "bf16-mixed"
    config.measure_every = 7393
    config.paper = "Table 1, ViT-S/16"
    config.paper_numbers.update({"metrics": ("box_ap", "mask_ap"), "flsl": (44.9, 40.8), "dino": (40.8, 37.3)})
    return config
