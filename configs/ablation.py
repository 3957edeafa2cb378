"""What the paper's ablations vary (Sec. 5.6, Appendix I): the recipe of `vits16` for 100 epochs. The base of the studies.

Run:      python -m flsl_jax.study --study=centroids --workdir=runs/centroids --config.data.root=/data/imagenet/train \
              --config.evaluation.bbox_knn.train.root=/data/imagenet/train --config.evaluation.bbox_knn.train.boxes=TRAIN.json \
              --config.evaluation.bbox_knn.val.root=/data/imagenet/val --config.evaluation.bbox_knn.val.boxes=VAL.json
Time:     a third of `vits16`.
Expect:   bbox-aligned k-NN 72.4 % (the paper, Table 6; not reproduced by us).
"""

from ml_collections import ConfigDict

from configs import vits16


def get_config() -> ConfigDict:
    """`vits16` for 100 epochs."""
    config = vits16.get_config()
    config.epochs = 100
    return config
