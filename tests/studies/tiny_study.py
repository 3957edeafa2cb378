"""A study of runs that take seconds; one of its variants fails when its data are opened."""

# What a command line needs to measure its runs on scenes.
FLAGS = ["--config=tests/tiny.py", "--config.stop_at_step=2"] + [
    f"--config.evaluation.bbox_knn.{split}.{key}={value}"
    for split, count in (("train", 24), ("val", 12))
    for key, value in (("name", "scenes"), ("count", count), ("scene_size", 32), ("split", split))
]


def get_study(config):
    return {
        "title": "Widths & things",
        "question": "Does it work?",
        "reference": "Table 0",
        "metrics": ["bbox_knn/token", "discovery/corloc"],
        "picture": "ratio",
        "variants": [
            {
                "name": "K8",
                "changes": {"head.centroids": config.head.centroids // 3},
                "paper": {"bbox_knn/token": 0.25},
            },
            {"name": "K24", "paper": {"bbox_knn/token": 0.5}, "setting": "K = <24>"},
            {"name": "too-large", "changes": {"batch_size": 64}, "paper": {"bbox_knn/token": 0.125}},
        ],
    }
