"""Other frameworks, imported where they are installed; tests that need one are skipped where it is not."""

import importlib.util
import warnings

import numpy as np
import pytest


def import_framework(name):
    """torch, timm, torchvision or transformers; their own warnings while they are imported are theirs."""
    pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if importlib.util.find_spec("torchvision"):
            from tests.transfer import operators

            operators.install()
        return pytest.importorskip(name)


def randomise(module, *, seed=0):
    """Gives every parameter its own random numbers, of a size at which blocks change the stream visibly."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator) + (parameter.ndim == 1))
    return module.eval()


def random_images(height, width, *, seed=0):
    """Two images, float32 [2, H, W, 3]."""
    return np.random.default_rng(seed).normal(size=(2, height, width, 3)).astype(np.float32)


def torch_tokens(run, images):
    """Tokens of a torch model, [B, N, D], of images [B, H, W, 3]."""
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        return run(torch.tensor(images).permute(0, 3, 1, 2)).numpy()
