"""FLSL ViT-S/8 on ImageNet-1k, the paper's recipe: 300 epochs at batch 512.

Run:      python -m flsl_jax.main --config=configs/vits8.py --workdir=runs/vits8 --config.data.root=/data/imagenet/train
Time:     not run whole. 6.4 days on one NVIDIA H200 at its measured rate (docs/planning.md). 380.35 GFLOP an image, five times
          S/16; about 414 GiB at batch 512 over all GPUs with our attention, by the estimate; far less with cuDNN's.
          On few devices add --config.compute.micro_batches=4 (exact).
Expect:   COCO Mask R-CNN 46.5 box AP, 42.1 mask AP; DAVIS-2017 J&F 73.5 (the paper, Tables 1 and 4; not reproduced by us).
"""

from ml_collections import ConfigDict

from configs import vits16


def get_config() -> ConfigDict:
    """`vits16` with patches of 8 pixels."""
    config = vits16.get_config()
    config.model.patch_size = 8
    return config
