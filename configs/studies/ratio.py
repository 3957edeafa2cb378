"""The ratio υ/η of pulling inside an image to clustering across images, as maps of similarity (the paper, Fig. 5).

Run:      python -m flsl_jax.study --study=ratio --workdir=runs/ratio --config.data.root=/data/imagenet/train
          with the boxes of the k-NN as configs/ablation.py says, and --images=FOLDER for the maps.
Small:    python -m flsl_jax.study --study=ratio --config=quickstart --workdir=runs/small_ratio --seeds=0,1,2
Time:     four runs of the base for each seed.
Expect:   maps that are bright and clear at 0.01 and dark and cluttered at 0.1 (the paper; not reproduced by us). Numbers for
          the same ratios, with Sinkhorn targets, are those of the study `coefficients`.
"""

from ml_collections import ConfigDict

RATIOS = (0.01, 0.02, 0.03, 0.1)


def get_study(config: ConfigDict) -> dict:
    """The figure's ratios, at the base's own η."""
    inter = config.objective.inter_weight
    variants = [
        {
            "name": f"ratio{ratio:g}",
            "changes": {
                "objective.intra_weight.start": ratio * inter,
                "objective.intra_weight.end": ratio * inter,
            },
            "setting": f"υ/η = {ratio:g}",
            "group": "ratio",
        }
        for ratio in RATIOS
    ]
    return {
        "title": "The ratio υ/η",
        "question": "What does a stronger pull towards the own mode do to the clusters of an image? In the paper they become "
        "smaller: the map of aggregated similarity is bright at 0.01, and dark and cluttered at 0.1.",
        "reference": "Fig. 5 has maps and no numbers",
        "metrics": ["bbox_knn/any", "bbox_knn/token", "bbox_knn/modes_token", "discovery/modes_regions"],
        "variants": variants,
        "picture": "ratio",
    }
