"""FLSL in JAX: feature-level self-supervised pretraining of vision transformers for dense prediction."""

__version__ = "0.1.0"
