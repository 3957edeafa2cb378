"""Detectors and segmenters in PyTorch on a pretrained backbone. This package imports torch; the rest of flsl_jax does not."""
