"""What every format of programs has in common: written whole or not at all, with facts and card, after three sizes agree."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from flsl_jax.errors import UserError
from flsl_jax.weights.export import parity, program_files
from flsl_jax.weights.export.program_files import Program, ProgramFormat, ProgramOptions, export_program
from tests.weights.export.networks import trained_of


def own_network(given):
    """A program whose content says nothing, and which our own network computes."""
    ours = parity.forward(given.tensors, given.trained.architecture)
    return Program(
        content=b"program", version="version 3", target="mine 3", run=lambda images: ours(images).tokens,
        snippet=f'run("{given.output}", "{given.facts}")',
    )  # fmt: skip


OWN = ProgramFormat(
    suffix=".own",
    runtime="mine",
    packages=("json",),
    install="",
    build=own_network,
    facts=lambda trained: {"source": trained.source},
)


def computing(change):
    """The same format with programs that compute something else."""
    return dataclasses.replace(
        OWN,
        build=lambda given: dataclasses.replace(own_network(given), run=lambda x: change(own_network(given).run(x))),
    )


@pytest.fixture(name="trained")
def _trained(monkeypatch, tmp_path):
    """A run of a random network, whatever path is read."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "curves.png").write_bytes(b"curves")
    found = trained_of("dino", workdir=tmp_path / "run")
    monkeypatch.setattr(program_files, "read_trained", lambda path, **options: found)
    return found


@pytest.fixture(name="folder")
def _folder(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def written(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_program_stands_beside_its_facts_card_and_curves(trained, folder):
    report = export_program(Path("mine"), folder / "vit.own", OWN, ProgramOptions(card=True))
    assert written(folder) == ["vit.json", "vit.md", "vit.own", "vit_curves.png"]
    assert (folder / "vit.own").read_bytes() == b"program"
    assert json.loads((folder / "vit.json").read_text()) == {"source": "mine"}
    assert "format: mine 3." in (folder / "vit.md").read_text()
    assert report.differences == {(20, 24): 0.0, (16, 32): 0.0, (40, 28): 0.0}
    first, *_ = report.text().splitlines()
    assert first == f"{folder / 'vit.own'}: 0.0 MiB, version 3"
    export_program(Path("mine"), folder / "vit.own", OWN, ProgramOptions(card=True, overwrite=True))


@pytest.mark.parametrize("there", ["vit.own", "vit.json", "vit.md", "vit_curves.png"])
def test_what_is_there_is_not_replaced_unless_that_is_asked_for(trained, folder, there):
    (folder / there).write_text("somebody's")
    with pytest.raises(UserError, match=f"{there} exists; name another --output, or replace it with --overwrite"):
        export_program(Path("mine"), folder / "vit.own", OWN, ProgramOptions(card=True))
    assert written(folder) == [there]
    assert (folder / there).read_text() == "somebody's"


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("value", [7, float("nan")])
def test_a_program_that_computes_something_else_at_one_size_is_not_written(trained, folder, place, value):
    sizes = iter(range(3))
    kind = computing(lambda tokens: np.where(next(sizes) == place, value, tokens))
    with pytest.raises(
        UserError, match=r"mine computes something else .* by (nan|[\d.]+e[+-]\d+), more than 1e-04; nothing"
    ):
        export_program(Path("mine"), folder / "vit.own", kind)
    assert written(folder) == []


def test_a_wrong_name_or_too_large_a_network_is_one_line(trained, folder, monkeypatch):
    with pytest.raises(UserError, match=r"expected a name that ends in \.own"):
        export_program(Path("mine"), folder / "vit.pth", OWN)
    with pytest.raises(UserError, match=r"nowhere_at_all is not installed; pip install it"):
        export_program(
            Path("mine"),
            folder / "vit.own",
            dataclasses.replace(OWN, packages=("nowhere_at_all",), install="pip install it"),
        )
    monkeypatch.setattr(program_files, "_MOST_BYTES", 100)
    with pytest.raises(UserError, match="a program holds less than 2; use --format=timm"):
        export_program(Path("mine"), folder / "vit.own", OWN)
    assert written(folder) == []


@pytest.mark.parametrize("broken", ["write_program_card", "card", "facts"])
def test_nothing_is_left_where_something_beside_it_cannot_be_written(trained, folder, monkeypatch, broken):
    def fails(*anything, **more):
        raise UserError("a result of the run is damaged")

    kind = dataclasses.replace(OWN, facts=fails) if broken == "facts" else OWN
    monkeypatch.setattr(program_files, "write_program_card", fails) if broken == "write_program_card" else None
    monkeypatch.setattr("flsl_jax.weights.export.card._numbers", fails) if broken == "card" else None
    with pytest.raises(UserError, match="damaged"):
        export_program(Path("mine"), folder / "vit.own", kind, ProgramOptions(card=True))
    assert written(folder) == []
