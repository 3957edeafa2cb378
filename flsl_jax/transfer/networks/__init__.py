"""Networks in PyTorch: the backbone, pyramids of its maps, detectors and segmenters on them."""
