"""The FLSL objective as pure functions on arrays."""

from flsl_jax.objective.guidance import guided_weights
from flsl_jax.objective.instance import dino_loss
from flsl_jax.objective.losses import (
    TERMS,
    FlslLoss,
    TermInputs,
    flsl_loss,
    inter_view_loss,
    intra_view_loss,
    volume_maximization,
    weight_key,
)
from flsl_jax.objective.mean_shift import mean_shift, mean_shift_weights
from flsl_jax.objective.positions import query_positions, sample_tokens
from flsl_jax.objective.queries import gather_tokens, num_queries, sample_queries
from flsl_jax.objective.targets import sinkhorn_targets, softmax_targets, updated_center
from flsl_jax.objective.vectors import l2_normalise

__all__ = [
    "TERMS",
    "FlslLoss",
    "TermInputs",
    "dino_loss",
    "flsl_loss",
    "gather_tokens",
    "guided_weights",
    "inter_view_loss",
    "intra_view_loss",
    "l2_normalise",
    "mean_shift",
    "mean_shift_weights",
    "num_queries",
    "query_positions",
    "sample_queries",
    "sample_tokens",
    "sinkhorn_targets",
    "softmax_targets",
    "updated_center",
    "volume_maximization",
    "weight_key",
]
