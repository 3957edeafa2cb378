"""FLSL beside its twin, DINO's objective on the same networks, data and updates (the paper, Table 4, has DINO itself).

Run:      python -m flsl_jax.study --study=methods --config=vits16 --workdir=runs/methods --config.data.root=/data/train
          with the boxes of the k-NN as configs/ablation.py says; --tasks=bbox_knn,video needs config.evaluation.video.root too.
Small:    python -m flsl_jax.study --study=methods --config=quickstart --workdir=runs/small_methods --seeds=0,1,2
Time:     two runs of the base for each seed; the twin has ten views of an image and, at ViT-S/16, takes 1.4 times as long.
Expect:   J&F on DAVIS-2017 65.6 % against 61.8 % of DINO itself after 300 epochs (the paper, Table 4; not reproduced by us).
"""

from ml_collections import ConfigDict

from configs import dino_vits16


def get_study(config: ConfigDict) -> dict:
    """The base's own objective, and the twin's with small views in the ratio of 96 to 224 pixels."""
    patch, size = config.model.patch_size, config.views.size
    small = max(1, round(size * 96 / 224 / patch)) * patch
    twin = dino_vits16.twin(config.copy_and_resolve_references(), local_size=small)
    changes = {
        f"{group}.{key}": value
        for group in ("objective", "views")
        for key, value in twin[group].items()
        if value != config[group].get(key)
    }
    return {
        "title": "FLSL and its twin",
        "question": "What do modes bring? Both learn with the same network, data, updates and schedules: one from modes of "
        "features inside images, the other from whole images, as DINO does. The twin has more views, "
        "most of them small, so their steps do not cost the same; the table of runs has the minutes.",
        "reference": "Table 4: J&F on DAVIS-2017 of ViT-S/16 after 300 epochs; DINO's is that of its own recipe",
        "metrics": [
            "bbox_knn/any",
            "bbox_knn/token",
            "bbox_knn/modes_token",
            "discovery/modes_corloc",
            "discovery/corloc",
            "discovery/modes_recall",
            "separability/separation",
            "separability/ari",
            "image_knn/top1",
            "retrieval/miou",
            "video/jf_mean",
        ],
        "variants": [
            {"name": "flsl", "paper": {"video/jf_mean": 0.656}},
            {"name": "dino", "changes": changes, "paper": {"video/jf_mean": 0.618}},
        ],
    }
