"""Semantic FPN on ADE20K with ViT-S/16: the paper's Table 10.

Run:      python -m flsl_jax.transfer --config=transfer/ade20k_semanticfpn_vits16 --backbone=runs/vits16 --workdir=runs/ade20k
          --config.data.train_masks.images=ADE/images/training --config.data.train_masks.masks=ADE/annotations/training
          --config.data.val_masks.images=ADE/images/validation --config.data.val_masks.masks=ADE/annotations/validation
          and, for both, .classes=ADE/objectInfo150.txt
Time:     not measured: no run of this size was made.
Expect:   the paper has mIoU 42.9, aAcc 81.5, mAcc 55.1 (DINO 38.3, 79.0, 47.1), with mmsegmentation; not reproduced by us.
"""

from ml_collections import ConfigDict

from configs.transfer import base


def get_config() -> ConfigDict:
    """40,000 steps at batch 16 on crops of 512 × 512."""
    config = base.get_config()
    config.update({"steps": 40_000, "precision": "bf16-mixed", "measure_every": 4000})
    # "flat", because the segmentation code of SelfPatch and of FLSL leaves all four maps at the patches' scale.
    config.network.update({"kind": "semantic_fpn", "pyramid": "flat", "blocks": (2, 5, 8, 11), "drop_path": 0.1})
    config.data.train_masks.ignore = (0,)
    config.data.val_masks.ignore = (0,)
    config.augment.update({"sizes": (512,), "max_size": 2048, "crop": 512, "ratio": (0.5, 2.0), "photometric": 0.5})
    config.optimizer.update(
        {"lr": 6e-5, "weight_decay": 0.01, "decay_norms": False, "warmup_steps": 1500, "schedule": "poly"}
    )
    config.paper = "Table 10, ViT-S/16"
    config.paper_numbers.update(
        {"metrics": ("miou", "aacc", "macc"), "flsl": (42.9, 81.5, 55.1), "dino": (38.3, 79.0, 47.1)}
    )
    return config
