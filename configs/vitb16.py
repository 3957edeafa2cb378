"""FLSL ViT-B/16 on ImageNet-1k, the paper's recipe: 300 epochs at batch 512.

Run:      python -m flsl_jax.main --config=configs/vitb16.py --workdir=runs/vitb16 --config.data.root=/data/imagenet/train
Time:     not run whole. 3.6 days on one NVIDIA H200 at its measured rate (docs/planning.md). 285.52 GFLOP an image; about
          97 GiB at batch 512 over all GPUs with our attention, by the estimate; less with cuDNN's.
Expect:   ViTDet-B 53.1 box AP, 47.0 mask AP; DAVIS-2017 J&F 66.1 (the paper, Tables 2 and 4; not reproduced by us).
"""

from ml_collections import ConfigDict

from configs import vits16


def get_config() -> ConfigDict:
    """`vits16` with twice the width and heads; the inverse temperatures stay the release's (docs/method.md, The objective)."""
    config = vits16.get_config()
    config.model.width = 768
    config.model.num_heads = 12
    return config
