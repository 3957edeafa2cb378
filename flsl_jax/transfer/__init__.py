"""Detectors and segmenters in PyTorch on a pretrained backbone; all modules but `config` and `__main__` import torch."""
