"""Writes a trained network as one file of another framework: accounts for every tensor and compares what both compute."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from flsl_jax.config import AS_THE_FILE_SAYS, ReadingConfig
from flsl_jax.errors import UserError
from flsl_jax.models import Architecture
from flsl_jax.weights.canonical import NetworkName, Tensors
from flsl_jax.weights.export import parity, writing
from flsl_jax.weights.export.card import card_paths, write_card
from flsl_jax.weights.export.counterparts import network_prefix, read_canonical
from flsl_jax.weights.export.metadata import file_metadata, folder_config, snippet_fields
from flsl_jax.weights.export.snippets import load_snippet
from flsl_jax.weights.export.trained import Trained, read_trained
from flsl_jax.weights.layouts import LAYOUTS, PROGRAMS, Layout, find_layout
from flsl_jax.weights.renaming import to_layout


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What is written and how.

    `format`: a name in `layouts.LAYOUTS`. `network`: "both" if the format holds two. `what`: "all" adds the head, whose
    last layer has the centroids. `reading`: what a weight file does not say; its `network` does not count. `card`: write a
    model card beside the file. `allow_mismatch`: write even if the target computes something else.
    """

    format: str
    network: Literal["teacher", "student", "both"] = "teacher"
    what: Literal["backbone", "all"] = "backbone"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    reading: ReadingConfig = AS_THE_FILE_SAYS
    card: bool = False
    overwrite: bool = False
    allow_mismatch: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What was written: the number of `tensors`, every allowance in words, each network's parity (None: not checked), the
    code that loads it."""

    path: Path
    tensors: int
    allowances: tuple[str, ...]
    parities: Mapping[str, parity.Parity | None]
    snippet: str
    card: Path | None

    def text(self) -> str:
        """The report in lines, with the snippet last."""
        lines = [f"{self.path}: {self.tensors} tensors", "allowances:"]
        lines += [f"  {line}" for line in self.allowances] or ["  none"]
        for network, checked in self.parities.items():
            if checked is None:
                lines.append(
                    f"parity: not checked; {writing.torch_problem()} and convert again, or compare tokens where the file is "
                    "loaded"
                )
            else:
                lines.append(f"parity of the {network}: {checked.table()}")
        lines += [f"model card: {self.card}"] if self.card else []
        return "\n".join([*lines, "", self.snippet])


def export(source: Path, output: Path, options: ExportOptions) -> ExportReport:
    """Writes the networks of a run, a checkpoint or a weight file in another framework's format.

    Raises:
        UserError: the format cannot hold the network, the source cannot be read, the output cannot be written, or the
            target computes something else. Then nothing is left behind.
    """
    layout = find_layout(options.format)
    writing.check_output(output, layout, overwrite=options.overwrite)
    _check_options(options, layout, output=output)
    trained = read_trained(source, networks=_networks(options), reading=options.reading)
    return write_trained(trained, output, options)


def write_trained(trained: Trained, output: Path, options: ExportOptions) -> ExportReport:
    """Writes networks that have already been read; see `export`."""
    layout = find_layout(options.format)
    check_fits(trained, layout, options=options)
    target, fields = _as_computed(trained.architecture, layout), snippet_fields(trained)
    written = {
        name: _rounded(tensors, options.dtype)
        for name, tensors in trained.backbones.items()
        if name in _networks(options)
    }
    contents = _contents(trained, written, options=options, layout=layout)
    parities: dict[str, parity.Parity | None] = {}
    with writing.whole_or_not(output) as temporary:
        writing.write_contents(contents, temporary, layout)
        for name, tensors in written.items():
            exact = {key: np.asarray(tensor, np.float32) for key, tensor in _kept(tensors, target).items()}
            parities[name] = _checked(temporary, name, exact, target=target, options=options, fields=fields)
        allowances = list_allowances(trained, contents, layout=layout, options=options, target=target)
        snippet = load_snippet(options.format, path=output, network=next(iter(written)), fields=fields)
        card = None
        if options.card:
            card = write_card(
                trained, output=output, folder=temporary, snippet=snippet, metadata=contents.metadata,
                parities=parities, allowances=allowances,
            )  # fmt: skip
    return ExportReport(
        path=output,
        tensors=sum(len(tensors) for tensors in contents.networks.values()),
        allowances=allowances,
        parities=parities,
        snippet=snippet,
        card=card,
    )


def _networks(options: ExportOptions) -> tuple[NetworkName, ...]:
    return ("teacher", "student") if options.network == "both" else (options.network,)


def _check_options(options: ExportOptions, layout: Layout, *, output: Path) -> None:
    if options.card and not options.overwrite:
        existing = [path for path in card_paths(output, is_folder=layout.kind == "folder") if path.exists()]
        if existing:
            raise UserError(f"{existing[0]} exists; name another --output, or replace it with --overwrite")
    two = [name for name, other in LAYOUTS.items() if other.wrapper == "network"]
    if options.what == "all" and layout.head_prefix is None:
        heads = [name for name, other in LAYOUTS.items() if other.head_prefix is not None]
        raise UserError(
            f"{layout.target} has no place for a head; use --what=backbone, or --format={' or '.join(heads)}"
        )
    if options.network == "both" and layout.wrapper != "network":
        raise UserError(
            f"{layout.target} holds one network; use --network=teacher or student, or --format={' or '.join(two)}"
        )


def check_fits(trained: Trained, layout: Layout, *, options: ExportOptions) -> None:
    """Checks that the format can hold the networks; one error gives all reasons why it cannot.

    Raises:
        UserError: prefix tokens, too many or too few, LayerScale, SwiGLU, rotary positions or none, an oblong grid, a missing
            norm or a missing head.
    """
    arch, problems = trained.architecture, []
    if arch.num_prefix > layout.max_prefix:
        count = f"{arch.num_prefix} prefix token(s) (class token, registers)"
        problems.append(f"the network has {count} and {layout.target} holds {layout.max_prefix or 'none'}")
    if arch.num_prefix < layout.min_prefix:
        needed = "a class token" if layout.min_prefix == 1 else "a class token and registers"
        problems.append(f"{layout.target} always has {needed}, and the network has {arch.num_prefix or 'none'}")
    if arch.layer_scale and not layout.layer_scale:
        problems.append("it has no LayerScale")
    if arch.mlp == "swiglu" and layout.swiglu is None:
        problems.append("its MLPs are GELU's, and the network's are SwiGLU's")
    if arch.mlp == "swiglu" and options.format.startswith("dinov") and arch.hidden % 8:
        problems.append(f"its SwiGLU MLPs have a multiple of 8 hidden channels, and the network's have {arch.hidden}")
    if layout.rotary != (arch.pos_embed == "rope"):
        kinds = ("an embedding", "rotary")
        problems.append(f"its positions are {kinds[layout.rotary]}, and the network's are {kinds[not layout.rotary]}")
    elif layout.rotary and arch.norm_eps not in (1e-5, 1e-6):
        problems.append(f"the epsilon of its norms is 1e-5 or 1e-6, and the network's is {arch.norm_eps:g}")
    if arch.grid[0] != arch.grid[1] and options.format != "timm" and not layout.rotary:
        problems.append(f"its position embedding is square, and the network's is {arch.grid[0]}×{arch.grid[1]}")
    if layout.final_norm and not arch.final_norm:
        problems.append("it has a norm after the last block, and the network has none")
    if options.what == "all" and not trained.heads:
        problems.append("the source has no head (--what=backbone)")
    if problems:
        fitting = " or ".join(
            name
            for name, other in LAYOUTS.items()
            if other.min_prefix <= arch.num_prefix <= other.max_prefix
            and (other.layer_scale or not arch.layer_scale)
            and (other.swiglu is not None or arch.mlp == "gelu")
            and other.rotary == (arch.pos_embed == "rope")
            and name != options.format
        )
        advice = f"; formats that hold its tokens and branches: {fitting}" if fitting else ""
        advice += f"; {' and '.join(PROGRAMS)} hold every network"
        raise UserError(f"--format={options.format} cannot hold {trained.source}: {'; '.join(problems)}{advice}")


def _as_computed(architecture: Architecture, layout: Layout) -> Architecture:
    """The network as the target is told to compute it. Its epsilon stays, although some targets have fixed another one."""
    return dataclasses.replace(
        architecture.written_out(),
        pos_resize=layout.pos_resize,
        final_norm=layout.final_norm,
    )


def _rounded(tensors: Tensors, dtype: str) -> Tensors:
    rounded = {
        name: tensor if name == "rope_periods" else tensor.astype(writing.DTYPES[dtype])
        for name, tensor in tensors.items()
    }
    infinite = [name for name, tensor in rounded.items() if not np.isfinite(np.asarray(tensor, np.float32)).all()]
    if infinite:
        raise UserError(
            f"{', '.join(infinite[:4])}: not finite as {dtype}"
            f"{'; use --dtype=bfloat16 or float32' if dtype == 'float16' else ', the network is broken'}"
        )
    return rounded


def _contents(
    trained: Trained, written: Mapping[str, Tensors], *, options: ExportOptions, layout: Layout
) -> writing.Contents:
    networks = {}
    for name, tensors in written.items():
        check_shapes(tensors, trained.architecture, source=trained.source)
        named = to_layout(tensors, layout)
        if options.what == "all":
            head = _rounded(trained.heads[name], options.dtype)
            named |= {f"{layout.head_prefix}{key}": tensor for key, tensor in head.items()}
        inner = network_prefix(name).removeprefix(f"{name}.") if layout.wrapper == "network" else ""
        networks[name] = {inner + key: tensor for key, tensor in named.items()}
    metadata = file_metadata(
        trained, name=options.format, networks=tuple(networks), what=options.what, dtype=options.dtype
    )
    return writing.Contents(
        networks=networks, metadata=metadata, configs=folder_config(trained, name=options.format, dtype=options.dtype)
    )


def check_shapes(tensors: Tensors, architecture: Architecture, *, source: str) -> None:
    """Checks names and shapes against the architecture; one error gives all that differ.

    Raises:
        UserError: tensors are missing, unknown or of a wrong shape.
    """
    expected = parity.canonical_shapes(architecture)
    problems = [f"{name} is missing" for name in expected.keys() - tensors.keys()]
    problems += [f"{name} is unknown" for name in tensors.keys() - expected.keys()]
    problems += [
        f"{name} is {tensors[name].shape} instead of {shape}"
        for name, shape in expected.items()
        if name in tensors and tensors[name].shape != shape
    ]
    if problems:
        raise UserError(f"{source} is not the network that its config describes: {'; '.join(sorted(problems))}")


def _kept(tensors: Tensors, target: Architecture) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if target.final_norm or not name.startswith("norm.")}


def _checked(
    path: Path,
    network: str,
    tensors: Tensors,
    *,
    target: Architecture,
    options: ExportOptions,
    fields: Mapping[str, str],
) -> parity.Parity | None:
    """Compares the numbers in the file and, if torch is installed, what the target computes with them."""
    back = read_canonical(path, name=options.format, network=network, architecture=target)
    lost = [name for name in tensors if name not in back or not np.array_equal(np.float32(back[name]), tensors[name])]
    if lost or back.keys() != tensors.keys():
        raise UserError(
            f"after reading the file back, {', '.join(lost or back.keys() ^ tensors.keys())} differ; nothing was written"
        )
    if writing.torch_problem():
        return None
    found = parity.check_parity(
        path, name=options.format, network=network, tensors=tensors, architecture=target, fields=fields
    )
    if not found.holds and not options.allow_mismatch:
        raise UserError(
            f"{found.counterpart} computes something else: it differs by {found.largest:.1e}, more than "
            f"{parity.TOLERANCE:.0e}; nothing was written (--allow_mismatch writes it and prints every block)"
        )
    return found


def list_allowances(
    trained: Trained, contents: writing.Contents, *, layout: Layout, options: ExportOptions, target: Architecture
) -> tuple[str, ...]:
    """Every difference between the file and the network, tensor by tensor, in words."""
    arch, width = trained.architecture, trained.architecture.width
    tensors = next(iter(trained.backbones.values()))
    lines = [*trained.notes]
    lines += [
        f"added {layout.prefix}{name} (1, 1, {width}), zeros: {layout.target} has it but does not use it"
        for name in layout.unused
    ]
    if layout.mask_token:
        lines.append(f"added mask_token (1, {width}), zeros: {layout.target} uses it in its own training alone")
    if layout.zero_row == "always":
        lines.append("added a first row of zeros to the position embedding, the class token's")
    if layout.zero_row == "with_token" and arch.num_prefix:
        lines.append("the class token includes its position, so the first row of the position embedding is zeros")
    if arch.final_norm and not layout.final_norm:
        lines.append(f"left out norm.weight, norm.bias: {layout.target} has no norm after the last block")
    if arch.pos_embed == "sincos":
        lines.append("the fixed sin-cos position embedding is written out; the target trains it unless it is frozen")
    if layout.norm_eps not in (None, arch.norm_eps):
        lines.append(f"LayerNorm's epsilon is {layout.norm_eps:g} there and {arch.norm_eps:g} here")
    if arch.pos_resize != target.pos_resize and not layout.rotary:
        plain = arch.written_out()
        moved = parity.resize_effect(tensors, plain, other=dataclasses.replace(plain, pos_resize=layout.pos_resize))
        height, side = parity.odd_size(arch)
        lines.append(
            f"other image sizes: position embedding resized as {layout.pos_resize}, where the weights expect "
            f"{arch.pos_resize}; at {height}×{side} tokens move by up to {moved:.1e}"
        )
    if options.dtype != "float32":
        moved = parity.rounding_effect(tensors, arch, dtype=options.dtype)
        lines.append(
            f"rounded to {options.dtype}: tokens move by up to {moved:.1e}; parity compares rounded with rounded"
        )
    if options.what == "all" and trained.config is not None and trained.config.head.norm_last_layer:
        lines.append("head.last_layer.weight_g is written as ones; it was fixed in training")
    return (*lines, *layout.notes)
