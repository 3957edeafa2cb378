"""Brightness of maps against υ/η, from what was measured of runs."""

import json

import pytest
from PIL import Image

from flsl_jax.config.files import load_config
from flsl_jax.studies.grid import make_plan
from flsl_jax.studies.maps import brightness, brightness_order, draw_maps, sheet_path
from flsl_jax.studies.page import write_study


def test_darker_maps_at_larger_ratios_are_the_papers_order(tmp_path):
    plan = make_plan("ratio", load_config("quickstart"), seeds=(0, 1), workdir=tmp_path)
    assert brightness(plan) == {}
    values = {"0.01": (0.75, 0.5), "0.02": (0.5, 0.5), "0.03": (0.25, None), "0.1": (0.125, 0.25)}
    measured = {
        f"ratio{ratio}-seed{seed}": value
        for ratio, both in values.items()
        for seed, value in enumerate(both)
        if value is not None
    }
    sheet_path(plan).parent.mkdir()
    (sheet_path(plan).parent / "brightness.json").write_text(json.dumps(measured))
    Image.new("RGB", (8, 8)).save(sheet_path(plan))
    assert brightness(plan)["ratio0.01"].mean == 0.625
    assert brightness(plan)["ratio0.03"].n == 1
    assert brightness_order(plan).spearman == pytest.approx(-1.0)
    text = write_study(plan, command="x").read_text()
    for words in ("0.188 ± 0.088", "0.250 (1 of 2)", "n = 4 variants: Spearman&", "largest difference of 0.44"):
        assert words.replace("&", "") in text.replace("&#x27;", ""), words


def test_without_a_finished_run_or_images_nothing_is_drawn(tmp_path):
    plan = make_plan("ratio", load_config("quickstart"), workdir=tmp_path)
    draw_maps(plan, images="")
    draw_maps(make_plan("ratio", load_config("ablation"), workdir=tmp_path), images="")
    assert not sheet_path(plan).exists()
