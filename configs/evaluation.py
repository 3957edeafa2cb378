"""The evaluations' groups with every key written out, for a training config; `flsl_jax/config/evaluation.py` documents each."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """No evaluation during training; the protocols' values for all of them."""
    return ConfigDict(
        {
            "every_epochs": 0.0,
            "tasks": ("bbox_knn",),
            "best_metric": "bbox_knn/any",
            "batch_size": 256,
            "recorded": (),
            "bbox_knn": {
                "train": source(name="folder"),
                "val": source(name="folder", split="val"),
                "size": 0,
                "k": 20,
                "k_scale": 7,
                "temp": 0.07,
                "modes": True,
                "inv_temp": 0.0,
                "bank_dtype": "float32",
                "features": "",
            },
            "video": {
                "name": "davis",
                "root": "",
                "split": "val",
                "resolution": "480p",
                "count": 0,
                "scene_size": 0,
                "scene_kind": "hues",
                "frames": 8,
                "limit": 0,
                "short_side": 480,
                "side_multiple": 64,
                "context": 7,
                "radius": 12,
                "top_k": 5,
                "temp": 0.1,
                "output": "",
                "predictions": "",
                "on_error": "fail",
            },
            "retrieval": {
                "train": masked_source(split="train"),
                "val": masked_source(split="val"),
                "size": 512,
                "fit": "square",
                "memory": 0,
                "sampling": "balanced",
                "k": 30,
                "temp": 0.02,
                "index": "",
                "probes": 32,
                "matching": "identity",
                "seed": 0,
            },
            "clustering": {
                "data": masked_source(split="val"),
                "size": 320,
                "fit": "crop",
                "clusters": (0,),
                "seeds": 3,
                "upsample": "bilinear",
            },
            "discovery": {
                "data": source(name="folder", split="val"),
                "features": "keys",
                "k_patches": 100,
                "inv_temp": 1.0,
                "mode_similarity": 0.8,
                "min_tokens": 2,
                "iou": 0.5,
            },
            "linear_probe": {
                "train": masked_source(split="train"),
                "val": masked_source(split="val"),
                "size": 512,
                "fit": "ratio",
                "epochs": 40,
                "batch_size": 16,
                "lr": 1e-2,
                "weight_decay": 1e-4,
                "keep_gib": 16.0,
                "seed": 0,
            },
            "image_knn": {
                "train": source(name="folder"),
                "val": source(name="folder", split="val"),
                "size": 0,
                "k": 20,
                "temp": 0.07,
            },
            "separability": {
                "data": masked_source(split="val"),
                "size": 0,
                "fit": "crop",
                "inv_temp": 1.0,
                "mode_similarity": 0.8,
            },
            "correspondence": {
                "data": keypoint_source(),
                "size": 768,
                "fit": "square",
                "search": "pixels",
                "alpha": 0.1,
            },
            "depth": {
                "train": depth_source(split="train"),
                "val": depth_source(split="val"),
                "size": 480,
                "fit": "ratio",
                "min_depth": 1e-3,
                "max_depth": 10.0,
                "bins": 256,
                "crop": "eigen",
                "steps": 38400,
                "batch_size": 16,
                "lr": 1e-2,
                "weight_decay": 1e-4,
                "keep_gib": 16.0,
                "seed": 0,
            },
        }
    )


def source(*, name: str, split: str = "train") -> ConfigDict:
    """Where images come from; see `SourceConfig` in `flsl_jax/config/source.py`."""
    return ConfigDict(
        {
            "name": name,
            "root": "",
            "dataset": "",
            "split": split,
            "image_column": "",
            "label_column": "",
            "frame_stride": 1,
            "pages": "first",
            "boxes": "",
            "count": 0,
            "scene_size": 0,
            "scene_kind": "hues",
            "limit": 0,
            "on_corrupt": "replace",
            "max_corrupt_share": 0.1,
        }
    )


def masked_source(*, split: str) -> ConfigDict:
    """Where images with masks come from; see `MaskedSourceConfig` in `flsl_jax/config/source.py`."""
    return ConfigDict(
        {
            "name": "folder",
            "images": "",
            "masks": "",
            "annotations": "",
            "classes": "",
            "names": "",
            "ignore": (255,),
            "split": split,
            "count": 0,
            "scene_size": 0,
            "scene_kind": "hues",
            "limit": 0,
        }
    )


def keypoint_source() -> ConfigDict:
    """Where pairs of images with key points come from; see `KeypointSourceConfig` in `flsl_jax/config/source.py`."""
    return ConfigDict(
        {
            "name": "spair",
            "root": "",
            "split": "test",
            "layout": "large",
            "categories": (),
            "count": 0,
            "scene_size": 0,
            "scene_kind": "hues",
            "limit": 0,
        }
    )


def depth_source(*, split: str) -> ConfigDict:
    """Where images with depth maps come from; see `DepthSourceConfig` in `flsl_jax/config/source.py`."""
    return ConfigDict(
        {
            "name": "folder",
            "images": "",
            "depths": "",
            "names": "",
            "scale": 1000.0,
            "split": split,
            "count": 0,
            "scene_size": 0,
            "scene_kind": "hues",
            "limit": 0,
        }
    )
