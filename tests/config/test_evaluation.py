"""One default for what several evaluations and pictures share."""

import dataclasses
import subprocess
import sys
from pathlib import Path

from flsl_jax.config import MODE_SIMILARITY, EvaluationConfig
from flsl_jax.pictures.kinds import PictureSettings

ROOT = Path(__file__).parents[2]


def test_clusters_are_measured_and_drawn_from_one_similarity_on():
    groups = [getattr(EvaluationConfig(), field.name) for field in dataclasses.fields(EvaluationConfig)]
    measured = {group.mode_similarity for group in groups if hasattr(group, "mode_similarity")}
    assert measured == {PictureSettings().mode_similarity} == {MODE_SIMILARITY}
    command = [sys.executable, "-m", "flsl_jax.visualize", "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120).stdout
    described = shown[shown.index("--mode_similarity") :]
    assert f"(default: '{MODE_SIMILARITY}')" in described.split("\n  --")[0]
