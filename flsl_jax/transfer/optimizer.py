"""Parameter groups, with layer-wise rates and without decay where the recipe wants it, and the learning rate of a step."""

from typing import Any

import torch
from torch import nn

from flsl_jax.transfer.config import OptimizerConfig
from flsl_jax.transfer.networks.vit import DetectorViT

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d, nn.SyncBatchNorm)


def make_optimizer(model: nn.Module, backbone: DetectorViT, config: OptimizerConfig) -> torch.optim.Optimizer:
    """The optimizer of a model, with one group for each pair of a factor of the learning rate and a weight decay."""
    factors = _layer_factors(backbone, decay=config.layer_decay)
    norms = {parameter for module in model.modules() if isinstance(module, _NORMS) for parameter in module.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        factor = factors.get(parameter, 1.0)
        decays = config.decay_norms or not (parameter in norms or name.endswith(("pos_embed", "prefix")))
        groups.setdefault((factor, config.weight_decay if decays else 0.0), []).append(parameter)
    listed: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": decay, "factor": factor}
        for (factor, decay), parameters in groups.items()
    ]
    if config.name == "sgd":
        return torch.optim.SGD(listed, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(listed, lr=config.lr)


def set_learning_rate(optimizer: torch.optim.Optimizer, config: OptimizerConfig, *, step: int, steps: int) -> float:
    """Sets the rates for the update after `step` updates of `steps`; returns that of a group with the factor 1."""
    lr = config.lr * _schedule(config, step=step, steps=steps)
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]
    return lr


def _schedule(config: OptimizerConfig, *, step: int, steps: int) -> float:
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    if config.schedule == "poly":
        return warmup * (1 - step / steps)
    return warmup * 0.1 ** sum(step >= drop * steps for drop in config.drops)


def _layer_factors(backbone: DetectorViT, *, decay: float) -> dict[nn.Parameter, float]:
    """The last block has the factor `decay`, each one before it `decay` times that of the next, the embeddings the smallest."""
    depth = len(backbone.blocks)
    factors = {}
    for name, parameter in backbone.named_parameters():
        number = int(name.split(".")[1]) + 1 if name.startswith("blocks.") else 0
        factors[parameter] = decay ** (depth + 1 - number)
    return factors
