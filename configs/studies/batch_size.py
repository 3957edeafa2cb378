"""The batch size, with the learning rate in proportion to it (the paper, Table 11).

Run:      python -m flsl_jax.study --study=batch_size --workdir=runs/batch_size --config.data.root=/data/imagenet/train
          with the boxes of the k-NN as configs/ablation.py says; it varies the batch from an eighth of the base's own to four
          times it.
Small:    python -m flsl_jax.study --study=batch_size --config=quickstart --workdir=runs/small_batch_size --seeds=0,1,2
Time:     six runs of the base for each seed; small batches take more steps.
Expect:   66.1 % with 64 images, 72.4 % with 512 and 1024, 71.9 % with 2048 (the paper; not reproduced by us).
"""

from ml_collections import ConfigDict

# Images in the paper, and the bbox-aligned k-NN as a share.
PAPER = {64: 0.661, 128: 0.698, 256: 0.717, 512: 0.724, 1024: 0.724, 2048: 0.719}


def get_study(config: ConfigDict) -> dict:
    """Batches in the paper's ratios to its main recipe, 512 images."""
    own = config.batch_size
    variants = []
    for images, share in PAPER.items():
        here = max(1, own * images // 512)
        variants.append(
            {
                "name": f"batch{here}",
                "changes": {"batch_size": here},
                "paper": {"bbox_knn/any": share},
                "setting": f"{images} images",
                "group": "batch",
            }
        )
    return {
        "title": "The batch size",
        "question": "How many images does a step need? The paper finds that few are enough, as each of them has many features.",
        "reference": "Table 11: bbox-aligned k-NN of ViT-S/16 after 100 epochs",
        "metrics": ["bbox_knn/any", "bbox_knn/token", "bbox_knn/modes_token"],
        "variants": variants,
    }
