"""Dense post-training of DINOv2's ViT-S/14 on COCO's images: its class token, LayerScale and 37×37 positions are kept.

Run:      python -m flsl_jax.main --config=configs/posttrain_vits14.py --workdir=runs/posttrain \
            --config.init_from=dinov2_vits14_pretrain.pth --config.data.root=/data/coco/train2017
          With registers: --config.model.num_prefix=5 --config.model.pos_resize=bicubic_antialias
Time:     not measured. 104.9 GFLOP an image, 23,100 steps: a hundredth of the FLOPs of `vits16` on ImageNet-1k; about
          20 GiB on a GPU with our attention, by the estimate.
Expect:   not measured: no published weights were at hand. Measure retrieval and the linear probe before and after, as
          docs/posttraining.md says; the result goes back into DINOv2's layout with --format=dinov2.
"""

from ml_collections import ConfigDict

from configs import vits16


def get_config() -> ConfigDict:
    """`vits16` for a backbone that is already good: few epochs, small steps, smaller ones in earlier blocks."""
    config = vits16.get_config()
    config.init_from = "dinov2_vits14_pretrain.pth"
    config.batch_size = 128
    config.epochs = 25
    config.model.update({"patch_size": 14, "pos_grid": 37, "pos_resize": "bicubic_dino", "drop_path": 0.0})
    config.model.update({"prefix_tokens": "keep", "num_prefix": 1, "layer_scale": True})
    # The new head learns alone for an epoch. Then the peak is 1e-4 for the head and about 1e-5 in the middle of the backbone.
    config.head.warmup_epochs = 1.0
    config.optimizer.update({"lr": 2e-4, "warmup_epochs": 2.0, "layer_decay": 0.7})
    config.optimizer.weight_decay = vits16.schedule(0.04, 0.04)
    config.teacher.momentum = vits16.schedule(0.9995, 1.0)
    # Of both tasks, 36×36 tokens. With a period of 5 epochs and data for both, they are measured before the first step too.
    config.evaluation.tasks = ("retrieval", "linear_probe")
    config.evaluation.best_metric = "retrieval/miou"
    config.evaluation.batch_size = 64
    config.evaluation.retrieval.size = 504
    config.evaluation.linear_probe.size = 504
    return config
