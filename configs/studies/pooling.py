"""Random pooling: the window of which one token is a query (the paper, Table 12), and whether that token is drawn or fixed.

Run:      python -m flsl_jax.study --study=pooling --workdir=runs/pooling --config.data.root=/data/imagenet/train
          with the boxes of the k-NN as configs/ablation.py says.
Small:    python -m flsl_jax.study --study=pooling --config=quickstart --workdir=runs/small_pooling --seeds=0,1,2
Time:     four runs of the base for each seed.
Expect:   72.4 % with windows of 2 × 2 tokens, 71.1 % with 4 × 4, drawn at random (the paper; not reproduced by us). The fixed
          token is the release's choice; the paper has no number for it.
"""

from ml_collections import ConfigDict

# Side of the window, and the bbox-aligned k-NN as a share.
PAPER = {2: 0.724, 4: 0.711}


def get_study(config: ConfigDict) -> dict:
    """The paper's two windows, each with the token drawn at random and with the first one always."""
    variants = []
    for window, share in PAPER.items():
        for drawn in (True, False):
            way = "random" if drawn else "fixed"
            variants.append(
                {
                    "name": f"window{window}-{way}",
                    "changes": {"objective.query_window": window, "objective.query_random": drawn},
                    "paper": {"bbox_knn/any": share} if drawn else {},
                    "setting": f"{window} × {window}" if drawn else "",
                    "group": way,
                }
            )
    return {
        "title": "Random pooling of queries",
        "question": "How many of an image's tokens must be queries: one of every 4 or one of every 16? And does it matter "
        "that they are drawn at random?",
        "reference": "Table 12: bbox-aligned k-NN of ViT-S/16 after 100 epochs",
        "metrics": ["bbox_knn/any", "bbox_knn/token", "bbox_knn/modes_token"],
        "variants": variants,
    }
