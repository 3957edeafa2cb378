"""Backbones as programs of other runtimes, written once they have computed the same tokens at three sizes."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flsl_jax.config import AS_THE_FILE_SAYS, ReadingConfig
from flsl_jax.errors import UserError, require_packages
from flsl_jax.weights.canonical import NetworkName, Tensors
from flsl_jax.weights.export import parity
from flsl_jax.weights.export.card import card_paths, write_program_card
from flsl_jax.weights.export.exporting import check_shapes
from flsl_jax.weights.export.trained import Trained, read_trained
from flsl_jax.weights.export.writing import check_new_file, whole_or_not

# Of the one file of a program; what the formats are written with (protobuf, flatbuffers) holds no more.
_MOST_BYTES = 2**31 - 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """A backbone as a program that has not been written yet.

    Attributes:
        content: of its file.
        version: of its format, in words.
        target: what runs it and its version, for the card.
        run: the program as it stands in `content`: normalised images [B, H, W, C] to tokens [B, h, w, D], both float32.
        snippet: code to copy that runs the file.
    """

    content: bytes
    version: str
    target: str
    run: Callable[[np.ndarray], np.ndarray]
    snippet: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramFormat:
    """One format of programs.

    Attributes:
        suffix: of its files.
        runtime: what computes its tokens here, in words.
        packages: those that it needs beside this one, by the names under which they are imported.
        install: the command that installs them.
        build: makes a program.
        facts: what the user of a program must know and the file itself does not say, for a JSON file beside it; None: nothing.
    """

    suffix: str
    runtime: str
    packages: tuple[str, ...]
    install: str
    build: Callable[["ProgramInput"], Program]
    facts: Callable[[Trained], Mapping[str, Any]] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramInput:
    """What a program is made of: canonical float32 tensors of one network, and where its files will be."""

    trained: Trained
    tensors: Tensors
    output: Path
    facts: Path

    def image_code(self) -> tuple[str, str]:
        """Code that imports what reads an image, and that reads one as levels from 0 to 255, [height, width, channels]."""
        channels = self.trained.architecture.channels
        height, width = parity.own_size(self.trained.architecture)
        if channels not in (1, 3):
            return "", 'np.load("image.npy")'
        opened = f'Image.open("photo.jpg").convert("{"RGB" if channels == 3 else "L"}").resize({(width, height)})'
        return "from PIL import Image\n", f"np.asarray({opened})" + ("" if channels == 3 else "[..., None]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramOptions:
    """`network`: the one that is written. `reading`: what a weight file does not say; its `network` does not count."""

    network: NetworkName = "teacher"
    reading: ReadingConfig = AS_THE_FILE_SAYS
    overwrite: bool = False
    card: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProgramReport:
    """What was written: `differences` of the tokens by size (height, width), as `parity.Parity` has them, and code to copy."""

    path: Path
    facts: Path | None
    version: str
    runtime: str
    differences: Mapping[tuple[int, int], float]
    notes: tuple[str, ...]
    snippet: str
    card: Path | None

    def text(self) -> str:
        """The report in lines, with the snippet last."""
        lines = [f"{self.path}: {self.path.stat().st_size / 2**20:.1f} MiB, {self.version}"]
        lines += [f"{self.facts}: what the program itself does not say"] if self.facts else []
        lines += [f"  {note}" for note in self.notes]
        lines.append(
            f"largest difference of {self.runtime}'s tokens (tolerance {parity.TOLERANCE:.0e}), two images each:"
        )
        lines += [f"  {height}×{width}  {value:.1e}" for (height, width), value in self.differences.items()]
        lines += [f"model card: {self.card}"] if self.card else []
        return "\n".join([*lines, "", self.snippet])


def export_program(
    source: Path, output: Path, kind: ProgramFormat, options: ProgramOptions = ProgramOptions()
) -> ProgramReport:
    """Writes the backbone of a run, a checkpoint or a weight file as one program, and a JSON file of facts beside it.

    Raises:
        UserError: a package is missing, the source cannot be read, the output cannot be written, the network is too large, or
            the program computes something else. Then nothing is left behind.
    """
    require_packages(*kind.packages, install=kind.install)
    facts, cards = output.with_suffix(".json"), card_paths(output, is_folder=False)
    check_new_file(output, suffix=kind.suffix, overwrite=options.overwrite)
    for path in (*([facts] if kind.facts else []), *(cards if options.card else [])):
        check_new_file(path, suffix=path.suffix, overwrite=options.overwrite)
    trained = read_trained(source, networks=(options.network,), reading=options.reading)
    arch, tensors = trained.architecture, trained.backbones[options.network]
    check_shapes(tensors, arch, source=trained.source)
    _check_size(tensors, source=trained.source)
    program = kind.build(ProgramInput(trained=trained, tensors=tensors, output=output, facts=facts))
    differences = _differences(program, tensors, trained)
    largest = float(np.max(list(differences.values())))  # NaN if one of them is
    if not largest <= parity.TOLERANCE:
        raise UserError(
            f"{kind.runtime} computes something else with this program: tokens differ by {largest:.1e}, more "
            f"than {parity.TOLERANCE:.0e}; nothing was written; please report this with the versions of "
            f"{' and '.join(('jax', *kind.packages))}"
        )
    card = None
    with contextlib.ExitStack() as files:
        files.enter_context(whole_or_not(output)).write_bytes(program.content)
        if kind.facts:
            text = json.dumps(kind.facts(trained), indent=2) + "\n"
            files.enter_context(whole_or_not(facts)).write_text(text, encoding="utf-8")
        if options.card:
            card = write_program_card(
                trained, output, target=program.target, snippet=program.snippet, differences=differences
            )
    return ProgramReport(
        path=output,
        facts=facts if kind.facts else None,
        version=program.version,
        runtime=kind.runtime,
        differences=differences,
        notes=trained.notes,
        snippet=program.snippet,
        card=card,
    )


def _check_size(tensors: Tensors, *, source: str) -> None:
    size = sum(tensor.nbytes for tensor in tensors.values())
    if size > _MOST_BYTES:
        raise UserError(
            f"{source} has {size / 2**30:.1f} GiB of parameters, and a program holds less than 2; use --format=timm or another "
            "format of tensors"
        )


def _differences(program: Program, tensors: Tensors, trained: Trained) -> dict[tuple[int, int], float]:
    """Of the program's tokens from those of our own network, by size: that of the training, an odd and a longer one."""
    arch = trained.architecture
    ours, differences = parity.forward(tensors, arch), {}
    own = parity.own_size(arch)
    for size in dict.fromkeys((own, parity.odd_size(arch), (2 * own[0], own[1] + arch.patch_size))):
        noise = parity.random_images(size, channels=arch.channels)
        images = np.concatenate([noise, -noise])
        expected = ours(images).tokens
        differences[size] = parity.difference(expected, program.run(images).reshape(expected.shape))
    return differences
