"""Recipes of detectors and segmenters on a pretrained backbone, for `python -m flsl_jax.transfer`."""
