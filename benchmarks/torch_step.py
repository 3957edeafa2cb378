"""The training step in PyTorch, written for comparison: the same views, networks, objective and updates as `flsl_jax`.

Written from the method, as someone who knows PyTorch would: fused attention and optimizer, `foreach` clipping and EMA,
views made on the device image by image in torchvision's manner.
"""

# pyright: reportPrivateImportUsage=false
# PyTorch's operations on many tensors at once have names with an underscore.
import math
import random
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from flsl_jax.config import Config, ViewsConfig, cross_inv_temp, self_inv_temp

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.heads = heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        x = x + self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class _Network(nn.Module):
    """The backbone, and the head with its weight-normalised last layer."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        model, head = config.model, config.head
        side = config.views.size // model.patch_size
        self.patch_embed = nn.Conv2d(3, model.width, model.patch_size, model.patch_size)
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, side**2, model.width))
        self.blocks = nn.Sequential(*(_Block(model.width, model.num_heads) for _ in range(model.depth)))
        self.norm = nn.LayerNorm(model.width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(model.width, head.hidden),
            nn.GELU(),
            nn.Linear(head.hidden, head.hidden),
            nn.GELU(),
            nn.Linear(head.hidden, head.bottleneck),
        )
        self.centroids = nn.Parameter(0.02 * torch.randn(head.centroids, head.bottleneck))

    def tokens(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(images).flatten(2).transpose(1, 2) + self.pos_embed
        return self.norm(self.blocks(x))

    def logits(self, modes: torch.Tensor) -> torch.Tensor:
        return F.normalize(self.mlp(modes), dim=-1) @ F.normalize(self.centroids, dim=-1).T


class TorchStep:
    """State and update; `step(images)` takes uint8 base crops [B, S, S, 3] on the device and returns the loss there.

    Args:
        config: a config of the paper's recipe, without drop path.
        device: of everything.
        kind: "eager"; "compile": encoders and objective through `torch.compile`; "tuned": compiled, without views
            of its own: student and teacher read the normalised crops.
        autocast: matrix products in bfloat16.
    """

    def __init__(self, config: Config, *, device: str, kind: str = "eager", autocast: bool = False) -> None:
        self.config, self.device, self.autocast, self.views = config, device, autocast, kind != "tuned"
        self.student, self.teacher = _Network(config).to(device), _Network(config).to(device)
        self.teacher.load_state_dict(self.student.state_dict())
        self.teacher.requires_grad_(False)
        matrices = [p for p in self.student.parameters() if p.ndim >= 2]
        others = [p for p in self.student.parameters() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}], lr=1e-4, fused=True
        )
        self.loss = self._loss if kind == "eager" else torch.compile(self._loss)

    def step(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.permute(0, 3, 1, 2).float()
        teacher_views = torch.cat([self._augmented(pixels) for _ in range(2)])
        student_views = torch.cat([self._augmented(self._cropped(pixels)) for _ in range(2)])
        with torch.autocast(self.device, torch.bfloat16, enabled=self.autocast):
            loss = self.loss(student_views, teacher_views)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        # Per tensor, as the method clips.
        grads = [parameter.grad for parameter in self.student.parameters() if parameter.grad is not None]
        factors = [
            (self.config.optimizer.clip_norm / (norm + 1e-6)).clamp(max=1) for norm in torch._foreach_norm(grads)
        ]
        torch._foreach_mul_(grads, factors)
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), 1 - 0.996)
        return loss.detach()

    def _loss(self, student_views: torch.Tensor, teacher_views: torch.Tensor) -> torch.Tensor:
        settings = self.config.objective
        with torch.no_grad():
            teacher_tokens = self.teacher.tokens(teacher_views).float()
        tokens = self.student.tokens(student_views).float()
        queries = _one_per_window(tokens, window=settings.query_window)
        modes = _mean_shift(queries, tokens, inv_temp=self_inv_temp(self.config).start)
        with torch.no_grad():
            paired = torch.cat(teacher_tokens.chunk(2)[::-1])
            positives = _mean_shift(queries, paired, inv_temp=cross_inv_temp(self.config).start)
            targets = F.softmax(self.teacher.logits(positives).float() / settings.teacher_temp.start, dim=-1)
        log_probs = F.log_softmax(self.student.logits(modes).float() / settings.student_temp, dim=-1)
        intra = (2 - 2 * F.cosine_similarity(queries, modes, dim=-1)).mean()
        inter = -(targets * log_probs).sum(-1).mean()
        mean = log_probs.exp().mean((0, 1))
        volume = (mean * mean.log()).sum() + math.log(len(mean))
        return settings.intra_weight.start * intra + inter + settings.volume_weight * volume

    def _cropped(self, pixels: torch.Tensor) -> torch.Tensor:
        """A random crop of every image, resized by antialiased bicubic interpolation."""
        if not self.views:
            return pixels
        size, area = self.config.views.size, self.config.views.student_area
        crops = []
        for image in pixels:
            side = min(size, int(size * math.sqrt(random.uniform(*area))))
            top, left = (random.randint(0, size - side) for _ in range(2))
            crop = image[None, :, top : top + side, left : left + side]
            crops.append(F.interpolate(crop, (size, size), mode="bicubic", antialias=True, align_corners=False))
        return torch.cat(crops).clamp(0, 255)

    def _augmented(self, pixels: torch.Tensor) -> torch.Tensor:
        """Jitter, grayscale, blur and solarise of every image with its own draws, then normalised."""
        mean, std = (torch.tensor(x, device=self.device)[:, None, None] * 255 for x in (_MEAN, _STD))
        if self.views:
            pixels = torch.stack([_augment(image, self.config.views) for image in pixels])
        return (pixels - mean) / std


def _augment(image: torch.Tensor, views: ViewsConfig) -> torch.Tensor:
    draw = random.random
    if draw() < views.jitter_probability:
        for kind in random.sample(range(4), 4):
            image = _JITTERS[kind](image, views)
    if draw() < views.grayscale_probability:
        image = _gray(image).expand(3, -1, -1)
    if draw() < views.blur_probability:
        image = _blurred(image, random.uniform(*views.blur_sigma))
    if draw() < views.solarise_probability:
        image = torch.where(image >= 128, 255 - image, image)
    return image


def _gray(image: torch.Tensor) -> torch.Tensor:
    return (0.299 * image[0] + 0.587 * image[1] + 0.114 * image[2])[None]


def _blend(image: torch.Tensor, other: torch.Tensor, strength: float) -> torch.Tensor:
    factor = random.uniform(1 - strength, 1 + strength)
    return (factor * image + (1 - factor) * other).clamp(0, 255)


def _hue(image: torch.Tensor, views: ViewsConfig) -> torch.Tensor:
    """Through HSV, as torchvision's tensor backend."""
    red, green, blue = image / 255
    high, low = torch.max(image / 255, 0).values, torch.min(image / 255, 0).values
    spread = high - low
    safe = torch.where(spread == 0, 1.0, spread)
    saturation = spread / torch.where(high == 0, 1.0, high)
    sector = torch.where(
        high == red,
        (green - blue) / safe % 6,
        torch.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    sector = (sector + 6 * random.uniform(-views.hue, views.hue)) % 6
    channels = []
    for offset in (5, 3, 1):
        place = (offset + sector) % 6
        channels.append(high - high * saturation * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.stack(channels) * 255


_JITTERS = (
    lambda image, views: _blend(image, torch.zeros_like(image), views.brightness),
    lambda image, views: _blend(image, _gray(image).mean().expand_as(image), views.contrast),
    lambda image, views: _blend(image, _gray(image).expand_as(image), views.saturation),
    _hue,
)


def _blurred(image: torch.Tensor, sigma: float) -> torch.Tensor:
    radius = max(1, math.ceil(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=image.device) / sigma) ** 2)
    kernel = (kernel / kernel.sum())[None, None, None]
    padded = F.pad(image[:, None], (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel), kernel.transpose(2, 3))[:, 0]


class HeldStep:
    """A step and its images, on the GPU if there is one; `facts` says what it is and how long it took to start."""

    def __init__(self, config: Config, images: np.ndarray, kind: str) -> None:
        start = time.perf_counter()
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.set_float32_matmul_precision("high")
        self._work = TorchStep(config, device=self._device, kind=kind, autocast=self._device == "cuda")
        self._images = torch.as_tensor(images).to(self._device)
        self.run(2)
        seconds = time.perf_counter() - start
        self.facts = f"PyTorch {torch.__version__} on {self._device}, first two steps after {seconds:.1f} s"

    def run(self, steps: int) -> float:
        """The loss of the last of `steps` steps."""
        for _ in range(steps):
            loss = self._work.step(self._images)
        return loss.item()

    def peak_gib(self) -> float:
        """Peak GPU memory of this process, in GiB; NaN without a GPU."""
        return torch.cuda.max_memory_allocated() / 2**30 if self._device == "cuda" else math.nan


def _one_per_window(tokens: torch.Tensor, *, window: int) -> torch.Tensor:
    batch, count, width = tokens.shape
    cells = math.isqrt(count) // window
    windows = tokens.reshape(batch, cells, window, cells, window, width).transpose(2, 3)
    windows = windows.reshape(batch, cells**2, window**2, width)
    chosen = torch.randint(window**2, (batch, cells**2, 1, 1), device=tokens.device)
    return windows.gather(2, chosen.expand(-1, -1, -1, width))[:, :, 0]


def _mean_shift(queries: torch.Tensor, tokens: torch.Tensor, *, inv_temp: float) -> torch.Tensor:
    return F.softmax(inv_temp * queries @ tokens.transpose(1, 2), dim=-1) @ tokens
