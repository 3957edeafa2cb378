"""Faster R-CNN on UAVDT with ViT-S/8: the paper's Table 3, the recipe of uavdt_fasterrcnn_vits16.

Run:      torchrun --nproc_per_node=8 -m flsl_jax.transfer --config=transfer/uavdt_fasterrcnn_vits8 --backbone=runs/vits8
          --workdir=runs/uavdt8 --config.data.train.root=UAV-benchmark-M --config.data.val.root=UAV-benchmark-M
          --config.data.train.annotations=UAV-benchmark-MOTD_v1.0/GT --config.data.val.annotations=UAV-benchmark-MOTD_v1.0/GT
Time:     not measured: no run of this size was made. It has four times the tokens of S/16, and computes blocks twice to
          save memory.
Expect:   as of uavdt_fasterrcnn_vits16; not reproduced by us.
"""

from ml_collections import ConfigDict

from configs.transfer import uavdt_fasterrcnn_vits16


def get_config() -> ConfigDict:
    """`uavdt_fasterrcnn_vits16` with blocks that are recomputed in the backward pass."""
    config = uavdt_fasterrcnn_vits16.get_config()
    config.network.checkpointing = True
    return config
