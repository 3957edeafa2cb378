"""FLSL ViT-S/16 on ImageNet-1k by the recipe of the authors' released code, which differs from the paper's.

Run:      python -m flsl_jax.main --config=configs/released_vits16.py --workdir=runs/released \
            --config.data.root=/data/imagenet/train
Time:     not measured here. The authors report 300 epochs in 3.5 days on 8 GPUs for their own code.
Expect:   no number is published for this recipe by itself.

One teacher view; student views at 224 px and two at 96 px of the same base crop; fixed position embedding, resized for
96 px as DINO does; windows of 3, of which the first token is the query; patch convolution and last layer start as torch's.
"""

from ml_collections import ConfigDict

from configs import vits16


def get_config() -> ConfigDict:
    """`vits16` with the release's views, schedule, query windows and start (docs/method.md, Views and Networks)."""
    config = vits16.get_config()
    config.model.pos_embed = "sincos"
    config.model.pos_resize = "bicubic_dino"
    config.model.patch_init = "torch"
    config.head.last_layer_init = "torch"
    config.views.recipe = "released"
    config.objective.query_window = 3
    config.objective.query_random = False
    config.optimizer.lr = 5e-4
    config.optimizer.warmup_epochs = 30.0
    config.optimizer.weight_decay = vits16.schedule(0.04, 0.4)
    return config
