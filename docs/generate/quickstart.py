"""The quickstart's numbers in README and pages, all of one study: FLSL and its twin on scenes, three seeds.

The study's own study.json is docs/generate/quickstart.json; docs/quickstart.md says how it is measured anew.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from docs.generate.text import filled, table

_FILE = Path(__file__).with_suffix(".json")
_OBJECTS, _LOST = "discovery/modes_corloc", "discovery/corloc"
_TOKEN, _ANY, _MODES = "bbox_knn/token", "bbox_knn/any", "bbox_knn/modes_token"
_SEPARATION, _ARI = "separability/separation", "separability/ari"
# What stands beside the trained model.
_BESIDE = ("untrained", "pixels", "twin")
# What the comparison shows: words, metric, whether it is a share.
_COMPARED = (
    ("objects found by modes", _OBJECTS, True),
    ("recall of all mode regions", "discovery/modes_recall", True),
    ("objects found by LOST", _LOST, True),
    ("k-NN, single tokens", _TOKEN, True),
    ("k-NN, any of 9", _ANY, True),
    ("k-NN of modes", _MODES, True),
    ("separation Δ", _SEPARATION, False),
    ("ARI of clusters", _ARI, False),
    ("clusters an image", "separability/clusters", False),
)


@functools.cache
def _rows() -> Mapping[str, Mapping[str, Any]]:
    """The metrics of FLSL, twin, untrained network and raw pixels."""
    study = json.loads(_FILE.read_text())
    variants = {row["name"]: row["metrics"] for row in study["variants"]}
    return {"FLSL": variants["flsl"], "twin": variants["dino"], **study["baselines"]}


def summary() -> str:
    """The README's sentence."""
    objects, single = ([_whole(row, metric) for row in _BESIDE] for metric in (_OBJECTS, _TOKEN))
    return filled(
        f"On three seeds, a region of one mean-shift mode finds an object in {_span(_OBJECTS)} of them (untrained "
        f"{objects[0]} %, raw pixels {objects[1]} %, DINO's objective on the same network and data {objects[2]} %), and single "
        f"tokens name its class in {_span(_TOKEN)} ({single[0]}, {single[1]} and {single[2]} %): "
        "[docs/quickstart.md](docs/quickstart.md). What else was measured, and what was not, is in "
        "[docs/evidence.md](docs/evidence.md)."
    )


def seeds() -> str:
    """Each seed, before and after training; raw pixels and the twin below."""
    header = (
        "seed",
        "objects found by modes: untrained → trained",
        "by LOST",
        "single tokens",
        "any of 9 tokens",
        "Δ",
        "ARI",
    )
    metrics = [(_OBJECTS, True), (_LOST, True), (_TOKEN, True), (_ANY, True), (_SEPARATION, False), (_ARI, False)]
    rows = [
        (
            seed,
            *(
                f"{_of_seed('untrained', metric, seed, share)} → {_of_seed('FLSL', metric, seed, share)}"
                for metric, share in metrics
            ),
        )
        for seed in sorted(_rows()["FLSL"][_OBJECTS]["seeds"])
    ]
    for words, row in (("raw pixels", "pixels"), ("twin, mean of the seeds", "twin")):
        rows.append((words, *(_mean(row, metric, share) for metric, share in metrics)))
    return table(header, rows)


def comparison() -> str:
    """FLSL beside its twin, the untrained network and raw pixels: means and standard deviations over the seeds."""
    rows = [
        (words, *(_mean_and_deviation(row, metric, share) for row in ("FLSL", "twin", "untrained", "pixels")))
        for words, metric, share in _COMPARED
    ]
    return table(("", "FLSL", "twin", "untrained", "raw pixels"), rows)


def tokens() -> str:
    """The bbox-aligned k-NN on scenes: means over the seeds."""
    named = (
        ("trained", "FLSL"),
        ("DINO's objective in its place", "twin"),
        ("untrained", "untrained"),
        ("raw pixels", "pixels"),
    )
    rows = [(words, *(_mean(row, metric, True) for metric in (_ANY, _TOKEN, _MODES))) for words, row in named]
    return table(("scenes, 8 classes (bank 50, 300 asked)", "any", "token", "modes_token"), rows)


def expected() -> Sequence[str]:
    """What the docstring of configs/quickstart.py must say of the results."""
    objects, single = ([_whole(row, metric) for row in _BESIDE] for metric in (_OBJECTS, _TOKEN))
    return (
        f"a mean-shift region finds an object in {_span(_OBJECTS)} (untrained {objects[0]}, raw pixels {objects[1]}, DINO's "
        f"objective in its place {objects[2]})",
        f"single tokens name the class in {_span(_TOKEN)} (untrained {single[0]}, raw pixels {single[1]}, DINO {single[2]})",
    )


def twin() -> Sequence[str]:
    """The twin's means, as `evaluation.recorded` of configs/quickstart.py holds them."""
    return tuple(f"{metric}={_rows()['twin'][metric]['mean']:.3f}" for metric in (_OBJECTS, _LOST, _TOKEN, _ANY))


def _span(metric: str) -> str:
    found = _rows()["FLSL"][metric]["seeds"].values()
    return f"{100 * min(found):.0f} to {100 * max(found):.0f} %"


def _whole(row: str, metric: str) -> str:
    return f"{100 * _rows()[row][metric]['mean']:.0f}"


def _of_seed(row: str, metric: str, seed: str, share: bool) -> str:
    return _shown(_rows()[row][metric]["seeds"][seed], share)


def _mean(row: str, metric: str, share: bool) -> str:
    return _shown(_rows()[row][metric]["mean"], share) if metric in _rows()[row] else "–"


def _mean_and_deviation(row: str, metric: str, share: bool) -> str:
    if metric not in _rows()[row]:
        return "–"
    mean, std = _rows()[row][metric]["mean"], _rows()[row][metric]["std"]
    if not std:  # raw pixels are the same for every seed
        return _shown(mean, share) if share or abs(mean) < 2 else f"{mean:.1f}"
    if share:
        return f"{100 * mean:.1f} ± {100 * std:.1f} %"
    digits = 3 if abs(mean) < 2 else 1
    return f"{mean:.{digits}f} ± {std:.{digits}f}".replace("-", "−")


def _shown(value: float, share: bool) -> str:
    return f"{100 * value:.1f} %" if share else f"{value:.3f}".replace("-", "−")
