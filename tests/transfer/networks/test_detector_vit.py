"""The backbone of detectors beside the network it comes from, and beside plain loops over windows and places."""

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from flsl_jax.data.records import digest_of
from flsl_jax.errors import UserError
from flsl_jax.models import Architecture
from flsl_jax.transfer.networks.backbone import torch_backbone
from flsl_jax.transfer.networks.vit import BackboneOptions, Block, DetectorViT
from tests.transfer.tiny_backbones import tiny_loaded

TINY = Architecture(patch_size=16, width=8, depth=3, num_heads=2, mlp_ratio=2, grid=(3, 3))


def randomise(module, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data = 0.4 * torch.randn(parameter.shape, generator=generator)
    return module


def network(*, options=None, blocks=(2,), architecture=TINY):
    return randomise(DetectorViT(architecture, options=options or BackboneOptions(), blocks=blocks))


@pytest.mark.parametrize(
    ("patch_size", "changes"),
    [
        (16, {}),
        (8, {"pos_resize": "bicubic_antialias", "final_norm": False}),
        (8, {"num_prefix": 3, "layer_scale": True, "pos_resize": "bicubic_dino"}),
        (16, {"num_prefix": 1, "pos_embed": "sincos"}),
    ],
)
def test_tokens_equal_those_of_the_pretrained_network_at_odd_sizes(patch_size, changes):
    loaded = tiny_loaded(patch_size=patch_size, **changes)
    backbone = torch_backbone(loaded, options=BackboneOptions(drop_path=0.1), blocks=(0, 3)).network.eval()
    images = np.random.default_rng(0).normal(size=(2, 5 * patch_size, 3 * patch_size, 3)).astype(np.float32)
    stream = loaded.model.intermediates(jnp.asarray(images))
    with torch.no_grad():
        maps = backbone(torch.tensor(images).permute(0, 3, 1, 2))
    for ours, block in zip(maps, (0, 3), strict=True):
        assert ours.shape == (2, 16, 5, 3)
        np.testing.assert_allclose(ours.permute(0, 2, 3, 1), stream[block + 1], rtol=1e-4, atol=1e-4)


def attend_by_loops(block, tokens, *, grid, tables=None):
    """Attention among the tokens [h·w, D] of a grid, one head, one query and one key at a time."""
    places = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
    query, key, value = block.attn["qkv"](tokens).chunk(3, dim=-1)
    channels = query.shape[-1] // block.num_heads
    mixed = torch.zeros_like(query)
    for head in range(block.num_heads):
        part = slice(head * channels, (head + 1) * channels)
        for number, (row, column) in enumerate(places):
            scores = []
            for other, (its_row, its_column) in enumerate(places):
                score = query[number, part] @ key[other, part] / channels**0.5
                if tables:
                    score = score + query[number, part] @ tables[0][row - its_row + grid[0] - 1]
                    score = score + query[number, part] @ tables[1][column - its_column + grid[1] - 1]
                scores.append(score)
            mixed[number, part] = torch.stack(scores).softmax(0) @ value[:, part]
    return block.attn["proj"](mixed)


def finish(block, x, mixed):
    x = x + mixed
    return x + block.mlp["fc2"](torch.nn.functional.gelu(block.mlp["fc1"](block.norm2(x))))


@torch.no_grad()
@pytest.mark.parametrize("relative", [False, True])
def test_windows_equal_attention_over_each_window_of_the_padded_grid(relative):
    window, grid = 3, (4, 5)
    block = randomise(Block(TINY, drop_path=0.0, window=window, relative_grid=(window, window) if relative else None))
    x = torch.randn(1, 20, 8, generator=torch.Generator().manual_seed(1))
    padded = torch.zeros(6, 6, 8)
    padded[:4, :5] = block.norm1(x[0]).reshape(4, 5, 8)
    tables = (block.rel_pos_h, block.rel_pos_w) if relative else None
    mixed = torch.zeros(6, 6, 8)
    for top in (0, 3):
        for left in (0, 3):
            inside = padded[top : top + 3, left : left + 3].reshape(9, 8)
            by_loops = attend_by_loops(block, inside, grid=(3, 3), tables=tables)
            mixed[top : top + 3, left : left + 3] = by_loops.reshape(3, 3, 8)
    expected = finish(block, x, mixed[:4, :5].reshape(1, 20, 8))
    torch.testing.assert_close(block(x, grid), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("made_for", [(3, 4), (2, 6)])
def test_relative_positions_equal_plain_loops_with_their_tables_resized(made_for):
    grid = (3, 4)
    block = randomise(Block(TINY, drop_path=0.0, window=0, relative_grid=made_for))
    tables = []
    for table, size in zip((block.rel_pos_h, block.rel_pos_w), grid):
        at = (np.arange(2 * size - 1) + 0.5) * len(table) / (2 * size - 1) - 0.5
        columns = [np.interp(at, np.arange(len(table)), column) for column in table.numpy().T]
        tables.append(torch.tensor(np.stack(columns, 1), dtype=torch.float32))
    x = torch.randn(1, 12, 8, generator=torch.Generator().manual_seed(1))
    mixed = attend_by_loops(block, block.norm1(x[0]), grid=grid, tables=tables)
    torch.testing.assert_close(block(x, grid), finish(block, x, mixed[None]), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_global_blocks_attend_over_the_whole_image_between_windows():
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    changed = images.clone()
    changed[..., 48:, 48:] += 1  # the last window's last patch
    options = BackboneOptions(window=2, global_blocks=(1,))
    before, after = (network(options=options, blocks=(0, 1))(these) for these in (images, changed))
    moved = [(a - b).abs().amax(1)[0] > 1e-6 for a, b in zip(before, after)]
    assert moved[0].nonzero().tolist() == [[2, 2], [2, 3], [3, 2], [3, 3]]
    assert moved[1].all()


@torch.no_grad()
def test_drop_path_keeps_the_mean_of_a_branch_and_does_nothing_in_evaluation():
    block = randomise(Block(TINY, drop_path=0.25, window=0, relative_grid=None))
    block.mlp["fc2"].weight.zero_()
    block.mlp["fc2"].bias.zero_()
    x = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(1))
    branch = block.eval()(x, (2, 2)) - x
    torch.manual_seed(0)
    drawn = block.train()(x.expand(4000, -1, -1), (2, 2)) - x
    dropped = drawn.abs().amax((1, 2)) == 0
    assert abs(dropped.float().mean() - 0.25) < 0.02
    torch.testing.assert_close(drawn[~dropped], (branch / 0.75).expand(int((~dropped).sum()), -1, -1))
    torch.testing.assert_close(drawn.mean(0, keepdim=True), branch, rtol=0.03, atol=1e-5)


@torch.no_grad()
def test_drop_path_rises_from_nothing_in_the_first_block():
    images = torch.randn(8, 3, 48, 48)
    model = network(options=BackboneOptions(drop_path=0.9), blocks=(0, 2)).eval()
    calm, (first, last) = model(images), model.train()(images)
    torch.testing.assert_close(first, calm[0])
    assert not torch.allclose(last, calm[1])


@pytest.mark.parametrize("window", [0, 2])
def test_checkpointing_changes_no_gradient(window):
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    gradients = []
    for checkpointing in (False, True):
        options = BackboneOptions(
            drop_path=0.5, window=window, relative_grid=(3, 3), global_blocks=(1,), checkpointing=checkpointing
        )
        model = network(options=options, blocks=(1, 2)).train()
        torch.manual_seed(3)
        sum(one.sin().sum() for one in model(images)).backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert len(gradients[0]) == len(gradients[1]) > 30
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


@pytest.mark.parametrize(
    ("options", "blocks", "words"),
    [
        ({}, (), "at least one"),
        ({}, (3,), "from 0 to 2"),
        ({}, (2, 1), "from 0 to 2"),
        ({"window": 2, "global_blocks": (5,)}, (2,), "global blocks"),
        ({"drop_path": 1.0}, (2,), "below 1"),
    ],
)
def test_refuses_what_the_network_does_not_have(options, blocks, words):
    with pytest.raises(ValueError, match=words):
        DetectorViT(TINY, options=BackboneOptions(**options), blocks=blocks)


def test_windows_leave_out_prefix_tokens_and_new_relative_positions_change_nothing():
    loaded = tiny_loaded(num_prefix=2)
    with_windows = torch_backbone(
        loaded, options=BackboneOptions(window=3, global_blocks=(3,), relative_grid=(4, 4)), blocks=(3,)
    )
    assert "left out: norm" in with_windows.report.replace("prefix, ", "")
    assert "prefix" in with_windows.report
    assert "new: 8 relative positions" in with_windows.report
    plain = torch_backbone(loaded, options=BackboneOptions(window=3, global_blocks=(3,)), blocks=(3,))
    images = torch.randn(1, 3, 80, 64)
    with torch.no_grad():
        torch.testing.assert_close(with_windows.network(images), plain.network(images), rtol=1e-4, atol=1e-4)


def test_a_backbone_that_does_not_fit_is_refused_in_one_line():
    loaded = tiny_loaded(num_prefix=1)
    with pytest.raises(UserError, match=r"relative positions beside a class token"):
        torch_backbone(loaded, options=BackboneOptions(relative_grid=(4, 4)), blocks=(3,))
    with pytest.raises(UserError, match=r"blocks \(9,\) of a network of 4 blocks"):
        torch_backbone(loaded, options=BackboneOptions(), blocks=(9,))


def test_the_digest_is_of_the_weights_that_are_taken():
    """The final norm is never taken, a class token only without windows."""
    loaded = tiny_loaded(num_prefix=1)

    def digests():
        options = [BackboneOptions(window=window) for window in (0, 2)]
        return [torch_backbone(loaded, options=option, blocks=(3,)).digest for option in options]

    whole, windows = digests()
    assert whole != windows
    loaded.model.norm.scale[...] *= 2
    assert digests() == [whole, windows]
    loaded.model.prefix[...] *= 2
    assert digests()[0] != whole
    assert digests()[1] == windows
    loaded.model.patch_embed.proj.bias[...] += 1e-3
    assert digests()[1] != windows


def test_a_computed_embedding_is_not_in_the_digest():
    """Processors differ in the last bits of sines."""
    backbone = torch_backbone(tiny_loaded(pos_embed="sincos"), options=BackboneOptions(), blocks=(3,))
    tensors = {name: tensor.numpy() for name, tensor in backbone.network.state_dict().items()}
    del tensors["pos_embed"]
    texts = [f"{name} {array.shape} {digest_of(array.tobytes())}" for name, array in sorted(tensors.items())]
    assert backbone.digest == digest_of(*texts)
