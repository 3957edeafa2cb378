"""Every key of a fine-tuning run with its default; the recipes beside this file change some of them.

`flsl_jax/transfer/config.py` says what each key means.
"""

from ml_collections import ConfigDict

_OBJECTS = {
    "name": "coco",
    "root": "",
    "annotations": "",
    "split": "train",
    "clips": (),
    "ignored_rule": "inside",
    "fill_ignored": False,
    "count": 0,
    "scene_size": 0,
    "limit": 0,
}
_PIXELS = {
    "name": "folder",
    "images": "",
    "masks": "",
    "annotations": "",
    "classes": "",
    "names": "",
    "ignore": (255,),
    "split": "train",
    "count": 0,
    "scene_size": 0,
    "scene_kind": "hues",
    "limit": 0,
}


def get_config() -> ConfigDict:
    """The whole configuration, every key written out."""
    return ConfigDict(
        {
            "seed": 0,
            "batch_size": 16,
            "steps": 90_000,
            "network": {
                "kind": "faster_rcnn",
                "pyramid": "patch",
                "channels": 256,
                "blocks": (),
                "roi_samples": 512,
                "drop_path": 0.0,
                "window": 0,
                "global_blocks": (),
                "relative_grid": 0,
                "checkpointing": False,
            },
            "data": {
                "train": dict(_OBJECTS),
                "val": dict(_OBJECTS),
                "train_masks": dict(_PIXELS),
                "val_masks": dict(_PIXELS),
                "workers": 4,
            },
            "augment": {
                "sizes": (800,),
                "max_size": 1333,
                "flip": 0.5,
                "cut": 0.0,
                "jitter": (1.0, 1.0),
                "crop": 0,
                "ratio": (0.5, 2.0),
                "photometric": 0.0,
            },
            "optimizer": {
                "name": "adamw",
                "lr": 1e-4,
                "weight_decay": 0.05,
                "decay_norms": True,
                "momentum": 0.9,
                "layer_decay": 1.0,
                "warmup_steps": 0,
                "schedule": "steps",
                "drops": (0.67, 0.92),
                "clip_norm": 0.0,
            },
            "precision": "32-true",
            "measure_every": 0,
            "log_every": 50,
            "paper": "",
            "paper_numbers": {"metrics": (), "flsl": (), "dino": ()},
        }
    )
