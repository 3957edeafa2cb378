"""DINO's objective on the networks, data, step and schedules of `vits16`: the twin that FLSL is compared with.

Run:      python -m flsl_jax.main --config=configs/dino_vits16.py --workdir=runs/dino --config.data.root=/data/imagenet/train
Time:     not measured at full length; benchmarks/README.md has its step beside FLSL's.
Expect:   not reproduced. Of DINO itself (class token, K = 65536, crops of the whole image) the FLSL paper's Table 1 gives
          40.8 box and 37.4 mask AP with COCO Mask R-CNN.

The image's feature is the mean token, because the backbone has no class token. What differs from DINO's own recipe, to differ
from `vits16` in the objective and its views alone: K (4096), the learning rate, and crops of the base crop, never flipped.
"""

from ml_collections import ConfigDict

from configs import vits16


def twin(config: ConfigDict, *, local_size: int, local_count: int = 8) -> ConfigDict:
    """A config of FLSL with DINO's objective and views: two crops of area 0.4 to 1, and small ones of `local_size` pixels."""
    config.objective.update({"method": "dino", "targets": "centering"})
    config.views.update({"recipe": "multicrop", "student_area": (0.4, 1.0)})
    config.views.update({"local_count": local_count, "local_size": local_size, "local_area": (0.05, 0.4)})
    return config


def get_config(local_count: str = "8") -> ConfigDict:
    """The twin of `vits16`: views of 2 × 224 and 8 × 96 pixels; `dino_vits16:0` has the two large ones alone."""
    return twin(vits16.get_config(), local_size=96, local_count=int(local_count))
