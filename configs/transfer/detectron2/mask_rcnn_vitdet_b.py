"""ViTDet-B on COCO in detectron2 itself, from our weights: its published pipeline, for a comparison without our detector.

Weights:  python -m flsl_jax.convert --input=runs/vitb16 --format=detectron2 --output=vitb16_detectron2.pth
Run:      python DETECTRON2/tools/lazyconfig_train_net.py --config-file=configs/transfer/detectron2/mask_rcnn_vitdet_b.py
          --num-gpus=8 --num-machines=8 --machine-rank=… --dist-url=… train.init_checkpoint=vitb16_detectron2.pth
          DETECTRON2 is a checkout of detectron2, installed with timm and a setuptools that still has pkg_resources, such as 80;
          its docs say where COCO lies (DETECTRON2_DATASETS).
Time:     not measured: no run was made. 184,375 steps of 64 images.
Expect:   the paper has box AP 53.1 and mask AP 47.0 (DINO 48.9 and 43.7); not reproduced by us.

What differs from detectron2's own projects/ViTDet/configs/COCO/mask_rcnn_vitdet_b_100ep.py: the weights, and that these have
no class token (`pretrain_use_cls_token`). `pretrain_img_size` is 16 times the grid of the position embedding, 224 as there.
detectron2 resizes that embedding as `model.pos_resize="bicubic"` does; the converter says what weights with another resize
lose. Pixels are RGB, normalised by ImageNet's mean and deviation, as in our pretraining. transfer/coco_vitdet_vitb16 is the
same recipe with our detector; docs/transfer.md says how the two differ.
"""

from functools import partial

import detectron2.data.transforms as T
from detectron2 import model_zoo
from detectron2.config import LazyCall
from detectron2.modeling.backbone.vit import get_vit_lr_decay_rate
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

_SIZE, _IMAGES, _STEPS = 1024, 64, 184_375

# Windows of 14 but in blocks 2, 5, 8 and 11, relative positions, drop path 0.1, simple pyramid, heads with LayerNorm.
model = model_zoo.get_config("common/models/mask_rcnn_vitdet.py").model
model.backbone.net.pretrain_img_size = 224
model.backbone.net.pretrain_use_cls_token = False

dataloader = model_zoo.get_config("common/data/coco.py").dataloader
dataloader.train.total_batch_size = _IMAGES
dataloader.train.mapper.image_format = "RGB"
dataloader.train.mapper.recompute_boxes = True
dataloader.train.mapper.augmentations = [
    LazyCall(T.RandomFlip)(horizontal=True),
    LazyCall(T.ResizeScale)(min_scale=0.1, max_scale=2.0, target_height=_SIZE, target_width=_SIZE),
    LazyCall(T.FixedSizeCrop)(crop_size=(_SIZE, _SIZE), pad=False),
]
dataloader.test.mapper.augmentations = [LazyCall(T.ResizeShortestEdge)(short_edge_length=_SIZE, max_size=_SIZE)]

train = model_zoo.get_config("common/train.py").train
train.init_checkpoint = "vitb16_detectron2.pth"
train.max_iter = _STEPS
train.amp.enabled = True
train.ddp.fp16_compression = True

lr_multiplier = LazyCall(WarmupParamScheduler)(
    scheduler=LazyCall(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01], milestones=[163_889, 177_546], num_updates=_STEPS
    ),
    warmup_length=250 / _STEPS,
    warmup_factor=0.001,
)

# AdamW at 1e-4 with weight decay 0.1, none of it on norms and the position embedding.
optimizer = model_zoo.get_config("common/optim.py").AdamW
optimizer.params.lr_factor_func = partial(get_vit_lr_decay_rate, num_layers=12, lr_decay_rate=0.7)
optimizer.params.overrides = {"pos_embed": {"weight_decay": 0.0}}
