"""The number of centroids K (the paper, Tables 6 and 13).

Run:      python -m flsl_jax.study --study=centroids --workdir=runs/centroids --config.data.root=/data/imagenet/train
          with the boxes of the k-NN as configs/ablation.py says; it varies K from a quarter of the base's own to four times it.
Small:    python -m flsl_jax.study --study=centroids --config=quickstart --workdir=runs/small_centroids --seeds=0,1,2
Time:     five runs of the base for each seed.
Expect:   68.1 % at K = 1024, about 72 % from 2048 to 16384, the most at 8192 (the paper; not reproduced by us).
"""

from ml_collections import ConfigDict

# K in the paper, and the bbox-aligned k-NN as a share.
PAPER = {1024: 0.681, 2048: 0.721, 4096: 0.724, 8192: 0.725, 16384: 0.721}


def get_study(config: ConfigDict) -> dict:
    """K in the paper's ratios to its main recipe, K = 4096."""
    own = config.head.centroids
    variants = []
    for centroids, share in PAPER.items():
        here = max(2, own * centroids // 4096)
        variants.append(
            {
                "name": f"K{here}",
                "changes": {"head.centroids": here},
                "paper": {"bbox_knn/any": share},
                "setting": f"K = {centroids}",
                "group": "K",
            }
        )
    return {
        "title": "The number of centroids K",
        "question": "How many clusters do the modes of all images need? The paper finds that few lose much, and that many gain "
        "nothing more.",
        "reference": "Tables 6 and 13: bbox-aligned k-NN of ViT-S/16 after 100 epochs",
        "metrics": ["bbox_knn/any", "bbox_knn/token", "bbox_knn/modes_token"],
        "variants": variants,
    }
