"""A model card beside a written file: what was trained on what, its curves and its numbers. The licence is left open."""

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flsl_jax._version import __version__
from flsl_jax.config import SourceConfig, describe_source
from flsl_jax.config.roots import root_names, written_roots
from flsl_jax.weights.export.metadata import channel_names
from flsl_jax.weights.export.numbers import read_numbers
from flsl_jax.weights.export.parity import Parity
from flsl_jax.weights.export.trained import Trained
from flsl_jax.weights.export.writing import whole_or_not

_METHODS = {
    "flsl": "FLSL ([Feature-Level Self-supervised Learning](https://arxiv.org/abs/2306.06203), NeurIPS 2023)",
    "dino": "DINO's objective ([Emerging Properties in Self-Supervised Vision Transformers](https://arxiv.org/abs/2104.14294), "
    "ICCV 2021)",
}


def card_paths(output: Path, *, is_folder: bool) -> tuple[Path, Path]:
    """Where card and curves go: README.md and curves.png in a folder, FILE.md and FILE_curves.png beside a file."""
    if is_folder:
        return output / "README.md", output / "curves.png"
    return output.with_suffix(".md"), output.with_name(f"{output.stem}_curves.png")


def write_card(
    trained: Trained,
    *,
    folder: Path,
    output: Path,
    snippet: str,
    metadata: Mapping[str, str],
    allowances: Sequence[str],
    parities: Mapping[str, Parity | None],
) -> Path:
    """Writes the card, and a copy of the run's curves if it has any; returns the path of the card.

    Args:
        folder: the folder or file that is being written, under its temporary name. A file's card is written beside `output`.
        output: its final name.
    """
    card, curves = card_paths(output, is_folder=folder.is_dir())
    place, picture = card_paths(folder, is_folder=True) if folder.is_dir() else (card, curves)
    drawn = trained.workdir / "curves.png" if trained.workdir else None
    has_curves = drawn is not None and drawn.exists()
    parts = [
        _heading(trained, metadata),
        _training(trained),
        f"## Curves\n\n![Curves of the training]({curves.name})\n" if has_curves else "",
        _numbers(trained),
        f"## How to load it\n\n```python\n{snippet}```\n\nImages: "
        f"{channel_names(trained.architecture.channels)} from 0 to 1, minus {metadata['mean']}, over "
        f"{metadata['std']}; height and width multiples of {trained.architecture.patch_size}.\n",
        _file(metadata, allowances, parities),
    ]
    with contextlib.ExitStack() as files:
        if drawn is not None and has_curves:
            shutil.copyfile(drawn, files.enter_context(whole_or_not(picture)))
        text = "\n".join(part for part in parts if part)
        files.enter_context(whole_or_not(place)).write_text(text, encoding="utf-8")
    return card


def write_program_card(
    trained: Trained, output: Path, *, target: str, snippet: str, differences: Mapping[Any, float]
) -> Path:
    """Writes the card of a program, and a copy of the run's curves if it has any; returns the path of the card.

    Args:
        trained: what is in the program.
        output: its file.
        target: what runs it, in words.
        snippet: code to copy that does so.
        differences: of its tokens from ours, by size (height, width).
    """
    metadata = {"target": target, "mean": json.dumps(trained.mean), "std": json.dumps(trained.std)}
    metadata |= {"channels": channel_names(trained.architecture.channels)}
    compared = [
        f"at {height}×{width} tokens differ by up to {value:.1e}" for (height, width), value in differences.items()
    ]
    return write_card(
        trained,
        folder=output,
        output=output,
        snippet=f"{snippet}\n",
        metadata=metadata,
        allowances=compared,
        parities={},
    )


def _heading(trained: Trained, metadata: Mapping[str, str]) -> str:
    arch = trained.architecture
    tags = "vision-transformer" if trained.config is None else f"{trained.config.objective.method}, vision-transformer"
    return (
        f"---\nlicense: # yours to choose; the training images' terms may bind it\ntags: [{tags}]\n---\n\n"
        f"# {trained.source}: ViT of width {arch.width}, depth {arch.depth}, patch {arch.patch_size}\n\n"
        f"Licence: **not stated**; fill it in above and here.\n\n"
        f"{_origin(trained)}; format: {metadata['target']}. Its patch features are meant for dense prediction: "
        "detection, segmentation, tracking.\n"
    )


def _origin(trained: Trained) -> str:
    if trained.config is None:
        return f"The backbone of the weight file {trained.source}, converted by flsl_jax {__version__}"
    method = _METHODS[trained.config.objective.method]
    return f"The {' and '.join(trained.backbones)} of a network trained with {method} by flsl_jax {__version__}"


def _training(trained: Trained) -> str:
    config = trained.config
    if config is None:
        return f"## Training\n\nNot known: converted from the weight file {trained.source}.\n"
    rows = {
        "images": _images(config.data),
        "started from": _start(config.init_from),
        "recipe": config.views.recipe,
        "step": f"{trained.step}, at {config.batch_size} images a step; {config.epochs} epochs planned",
        "image size": f"{config.views.size} × {config.views.size}",
        "optimizer": f"AdamW, lr {config.optimizer.lr:g} per 256 images, {config.optimizer.warmup_epochs:g} epochs of warm-up",
        "weight decay": f"{config.optimizer.weight_decay.start:g} → {config.optimizer.weight_decay.end:g}",
        "teacher's momentum": f"{config.teacher.momentum.start:g} → {config.teacher.momentum.end:g}",
        "centroids": config.head.centroids,
        "seed": config.seed,
    }
    return f"## Training\n\n{_table(('', ''), rows.items())}"


def _start(init_from: str) -> str:
    """Without the folders of the machine that it was trained on."""
    path = Path(init_from)
    if path.parent.name == "checkpoints":
        return f"{path.parent.parent.name}, step {path.name}"
    return path.name or "random values"


def _images(data: SourceConfig) -> str:
    if data.name == "scenes":
        return describe_source(data)
    named = data.dataset or ", ".join(root_names(written_roots(data.root)))
    return f"{named} ({data.name}{f', {data.split}' if data.name == 'tfds' else ''}), without labels"


def _numbers(trained: Trained) -> str:
    """What was measured of the model, and beside it, in columns of their own, what it is compared with."""
    if trained.workdir is None:
        return ""
    numbers = read_numbers(trained)
    if not numbers.rows:
        return "## Evaluation\n\nNot measured; `python -m flsl_jax.evaluate --help` says how.\n"
    rows = [
        (row.task, row.metric, *(_value(row.values.get(column)) for column in (numbers.own, *numbers.others)))
        for row in numbers.rows
    ]
    note = ""
    if numbers.others:
        note = f"To compare with, and not this model: {', '.join(numbers.others)}.\n\n"
    header = ("task", "metric", f"**this model**, {numbers.own}", *numbers.others)
    return f"## Evaluation\n\n{note}{_table(header, rows)}"


def _value(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _file(metadata: Mapping[str, str], allowances: Sequence[str], parities: Mapping[str, Parity | None]) -> str:
    rows = [(name, f"`{value}`") for name, value in metadata.items() if name != "format"]
    lines = [f"## The file\n\n{_table(('', ''), rows)}"]
    if allowances:
        lines.append("\nDifferences from the trained network:\n\n" + "".join(f"- {line}\n" for line in allowances))
    for network, parity in parities.items():
        outcome = "not checked (no PyTorch)" if parity is None else f"\n\n```\n{parity.table()}\n```"
        lines.append(f"\nParity of the {network}: {outcome}\n")
    return "".join(lines)


def _table(header: Sequence[str], rows: Any) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)
