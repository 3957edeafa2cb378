"""Google's `.npz` files: tokens as a reference in NumPy computes them from Flax's arrays; damaged and other ones refused."""

import chex
import jax
import numpy as np
import pytest

from flsl_jax.errors import UserError
from flsl_jax.weights.load import build_backbone, load_network
from flsl_jax.weights.reading.files import read_weights
from flsl_jax.weights.reading.importing import import_weights

WIDTH, HEADS, DEPTH, PATCH, HIDDEN = 32, 4, 2, 8, 96


def flax_arrays(*, seed=0):
    """Arrays as Google's vision_transformer saves them, for 32 px."""
    rng = np.random.default_rng(seed)
    channels = WIDTH // HEADS
    shapes = {"cls": (1, 1, WIDTH), "Transformer/posembed_input/pos_embedding": (1, 17, WIDTH)}
    shapes |= {"embedding/kernel": (PATCH, PATCH, 3, WIDTH), "embedding/bias": (WIDTH,)}
    shapes |= {"head/kernel": (WIDTH, 10), "head/bias": (10,), "pre_logits/kernel": (WIDTH, WIDTH)}
    shapes |= {f"Transformer/encoder_norm/{leaf}": (WIDTH,) for leaf in ("scale", "bias")}
    for number in range(DEPTH):
        block = f"Transformer/encoderblock_{number}"
        attention = f"{block}/MultiHeadDotProductAttention_1"
        for part in ("query", "key", "value"):
            shapes |= {f"{attention}/{part}/kernel": (WIDTH, HEADS, channels)}
            shapes |= {f"{attention}/{part}/bias": (HEADS, channels)}
        shapes |= {f"{attention}/out/kernel": (HEADS, channels, WIDTH), f"{attention}/out/bias": (WIDTH,)}
        shapes |= {f"{block}/LayerNorm_{n}/{leaf}": (WIDTH,) for n in (0, 2) for leaf in ("scale", "bias")}
        shapes |= {f"{block}/MlpBlock_3/Dense_0/kernel": (WIDTH, HIDDEN), f"{block}/MlpBlock_3/Dense_0/bias": (HIDDEN,)}
        shapes |= {f"{block}/MlpBlock_3/Dense_1/kernel": (HIDDEN, WIDTH), f"{block}/MlpBlock_3/Dense_1/bias": (WIDTH,)}
    return {
        name: (0.2 * rng.normal(size=shape) + name.endswith("scale")).astype(np.float32)
        for name, shape in shapes.items()
    }


def reference_tokens(arrays, images):
    """Patch tokens [B, N, D] at the size of the positions, in float64 from Flax's arrays, with the exact GELU."""
    from scipy.special import erf

    a = {name: np.asarray(array, np.float64) for name, array in arrays.items()}

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * a[f"{name}/scale"] + a[f"{name}/bias"]

    batch, height, width, _ = images.shape
    patches = images.reshape(batch, height // PATCH, PATCH, width // PATCH, PATCH, 3)
    x = np.einsum("bhywxc,yxcd->bhwd", patches, a["embedding/kernel"]) + a["embedding/bias"]
    x = np.concatenate([np.repeat(a["cls"], batch, 0), x.reshape(batch, -1, WIDTH)], axis=1)
    x = x + a["Transformer/posembed_input/pos_embedding"]
    for number in range(DEPTH):
        block = f"Transformer/encoderblock_{number}"
        own = f"{block}/MultiHeadDotProductAttention_1"
        y = norm(x, f"{block}/LayerNorm_0")
        query, key, value = (
            np.einsum("bnd,dhc->bhnc", y, a[f"{own}/{part}/kernel"]) + a[f"{own}/{part}/bias"][:, None]
            for part in ("query", "key", "value")
        )
        logits = query @ key.swapaxes(2, 3) / np.sqrt(WIDTH // HEADS)
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        mixed = weights / weights.sum(-1, keepdims=True) @ value
        x = x + np.einsum("bhnc,hcd->bnd", mixed, a[f"{own}/out/kernel"]) + a[f"{own}/out/bias"]
        y = norm(x, f"{block}/LayerNorm_2") @ a[f"{block}/MlpBlock_3/Dense_0/kernel"]
        y = y + a[f"{block}/MlpBlock_3/Dense_0/bias"]
        y = y * 0.5 * (1 + erf(y / np.sqrt(2)))
        x = x + y @ a[f"{block}/MlpBlock_3/Dense_1/kernel"] + a[f"{block}/MlpBlock_3/Dense_1/bias"]
    return norm(x, "Transformer/encoder_norm")[:, 1:]


def save(path, arrays):
    np.savez(path, **arrays)
    return path


def test_tokens_are_those_of_a_reference_with_flax_arrays(tmp_path):
    arrays = flax_arrays()
    imported = import_weights(save(tmp_path / "ViT.npz", arrays))
    arch = imported.architecture
    assert (arch.num_heads, arch.num_prefix, arch.grid, arch.patch_size) == (HEADS, 1, (4, 4), PATCH)
    assert imported.heads_known
    assert (imported.mean, imported.std) == ((0.5,) * 3, (0.5,) * 3)
    assert {"head.weight", "head.bias", "pre_logits.weight"} <= imported.unused.keys()
    assert "tanh form" in imported.report()
    images = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)
    found = np.asarray(jax.jit(build_backbone(imported).__call__)(images)).reshape(2, 16, WIDTH)
    np.testing.assert_allclose(found, reference_tokens(arrays, images), atol=2e-5)


def big_vision(arrays, *, scanned):
    """The same network as big_vision names it, its blocks stacked where a scan has trained it."""
    renamed = {}
    for name, array in arrays.items():
        for old, new in (
            ("MultiHeadDotProductAttention_1", "MultiHeadDotProductAttention_0"), ("LayerNorm_2", "LayerNorm_1"),
            ("MlpBlock_3", "MlpBlock_0"), ("Transformer/posembed_input/pos_embedding", "pos_embedding"),
        ):  # fmt: skip
            name = name.replace(old, new)
        renamed[f"params/{name}"] = array
    if not scanned:
        return renamed
    first = "params/Transformer/encoderblock_0/"
    stacked = {name: array for name, array in renamed.items() if "encoderblock_" not in name}
    for name in (name.removeprefix(first) for name in renamed if name.startswith(first)):
        blocks = [renamed[f"params/Transformer/encoderblock_{number}/{name}"] for number in range(DEPTH)]
        stacked[f"params/Transformer/encoderblock/{name}"] = np.stack(blocks)
    return stacked


@pytest.mark.parametrize("scanned", [False, True])
def test_big_vision_names_the_same_network_otherwise(tmp_path, scanned):
    arrays = flax_arrays()
    plain = import_weights(save(tmp_path / "plain.npz", arrays))
    extra = {"opt/0/mu/params/cls": np.zeros(3), "params/MAPHead_0/probe": np.zeros((1, 1, WIDTH))}
    found = import_weights(save(tmp_path / "big.npz", big_vision(arrays, scanned=scanned) | extra))
    chex.assert_trees_all_equal(found.backbone, plain.backbone)
    assert found.unused["opt/0/mu/params/cls"] == "not weights"


def test_files_without_a_head_and_with_float16_are_read(tmp_path):
    arrays = {name: a.astype(np.float16) for name, a in flax_arrays().items() if not name.startswith(("head", "pre"))}
    imported = import_weights(save(tmp_path / "x.npz", arrays))
    assert imported.backbone["norm.bias"].dtype == np.float32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {"a": np.ones(3)}, "not a vision transformer that is known here"),
        (lambda a: {"x": np.array([{}], object)}, "is damaged, or holds Python objects"),
        (lambda a: {n: v for n, v in a.items() if n != "cls" and "Dense_1/bias" not in n}, "no blocks.0.mlp.fc2.bias"),
        (lambda a: a | {"conv_root/kernel": np.ones((7, 7, 3, 64))}, "convolutions before its patches"),
        (lambda a: a | {"surprise": np.ones(2)}, "unknown surprise"),
    ],
)
def test_other_archives_are_one_line(tmp_path, change, message):
    with pytest.raises(UserError, match=message) as caught:
        load_network(save(tmp_path / "x.npz", change(flax_arrays())))
    assert len(str(caught.value).splitlines()) == 1


def test_a_truncated_archive_is_one_line(tmp_path):
    path = save(tmp_path / "x.npz", flax_arrays())
    content = bytearray(path.read_bytes())
    content[200:40_000] = bytes(39_800)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x.npz is damaged"):
        read_weights(path)
    path.write_bytes(content[:1000])
    with pytest.raises(UserError, match="truncated"):
        read_weights(path)
