"""A config on eight devices: each doubtful value has its line, with the key and what to set it to."""

import pytest

from flsl_jax.doctor import config as doctor
from flsl_jax.doctor.examine import checked_config
from flsl_jax.doctor.finding import Examination
from flsl_jax.errors import UserError
from tests.tiny import get_config, tiny_config


def examined(config):
    exam = Examination()
    training = doctor.examine(exam, config, begins=True)
    return {finding.name.removeprefix("config/"): finding for finding in exam.findings}, training


def test_a_sound_config_is_green_throughout():
    sharpness = {"inv_temp_scale": "mean", "self_inv_temp": {"start": 1.96, "end": 1.96}}
    findings, training = examined(tiny_config(batch_size=16, objective=sharpness))
    assert {finding.colour for finding in findings.values()} == {"green"}
    assert set(findings) == {"values", "devices", "mean-shift", "batch", "memory"}
    assert findings["devices"].found == "2 images on each of 8 devices"
    assert findings["batch"].found.startswith(
        "16 images give a largest learning rate of 0.000313 and 128 queries a step"
    )
    assert training is not None
    assert doctor.checkpoint_bytes(training) > 16 * 1000


@pytest.mark.parametrize(
    ("groups", "name", "colour", "found", "advice"),
    [
        ({"batch_size": 12}, "devices", "red", "not divisible by the 8 devices", "multiple of 8"),
        ({"parallel": {"fsdp": 3}}, "devices", "red", "does not use the 8 devices", "divisor"),
        (
            {"batch_size": 24, "compute": {"micro_batches": 2}},
            "devices",
            "yellow",
            "3 images on each of 8 devices, in 2 parts, which the devices cannot share evenly",
            "divides 3",
        ),
        (
            {"parallel": {"distributed": True, "num_processes": 3}},
            "devices",
            "red",
            "not divisible by 24 devices, if every process",
            "multiple of 24",
        ),
        (
            {"objective": {"self_inv_temp": {"start": 0.0051, "end": 0.0051}}},
            "mean-shift",
            "yellow",
            "τ‖z‖² begins at 0.163 for width 32 (the paper's 1.96): below 1, so soft",
            "Raise config.objective.self_inv_temp and cross_inv_temp about 12 times",
        ),
        (
            {"objective": {"self_inv_temp": {"start": 256.0, "end": 256.0}, "inv_temp_scale": "mean"}},
            "mean-shift",
            "yellow",
            "begins at 256 for width 32 (the paper's 1.96): above 10, so sharp",
            "Lower config.objective.self_inv_temp and cross_inv_temp, by up to 131 times",
        ),
        ({"head": {"centroids": 100}}, "batch", "yellow", "64 queries a step, fewer than the 100 centroids", "raise"),
        ({"batch_size": 4096}, "batch", "yellow", "nobody has reported more than 2,048", "best from 512 to 1,024"),
        ({"objective": {"targets": "sinkhorn"}}, "values", "yellow", "stands in for the volume term", "set it to 0.0"),
        ({"init_from": "nothing/here"}, "init_from", "red", "nothing/here", ""),
    ],
)
def test_a_doubtful_value_is_named(groups, name, colour, found, advice):
    finding = examined(tiny_config(**groups))[0][name]
    assert finding.colour == colour
    assert found in finding.found
    assert advice in finding.advice


def test_too_little_memory_is_red_with_the_flags_that_make_it_fit(monkeypatch):
    config = tiny_config(batch_size=4096)
    needed = float(examined(config)[0]["memory"].found.split("estimated: ")[1].split(" GiB")[0])
    monkeypatch.setattr(doctor, "free_memory", lambda: (int(8 * 0.5 * needed * 2**30), 2**40))
    finding = examined(config)[0]["memory"]
    assert finding.colour == "red"
    assert finding.advice.startswith("What would: --config.compute.micro_batches=")
    monkeypatch.setattr(doctor, "free_memory", lambda: (int(8 * 1.05 * needed * 2**30), 2**40))
    assert examined(config)[0]["memory"].colour == "yellow", "an estimate may take nine tenths"


def test_a_guide_that_is_not_there_is_one_red_line():
    findings, training = examined(tiny_config(guide={"model": "nothing/here"}))
    assert training is None
    assert findings["network"].colour == "red"
    assert "nothing/here" in findings["network"].found


def test_the_compile_cache_is_not_tried_out(tmp_path):
    values = get_config().to_dict()
    values["compute"]["compile_cache"] = str(tmp_path / "cache")
    before = tmp_path.stat().st_mtime_ns
    assert checked_config(values).compute.compile_cache == str(tmp_path / "cache")
    assert tmp_path.stat().st_mtime_ns == before
    values["batch_size"] = 0
    with pytest.raises(UserError, match=r"config\.batch_size is 0"):
        checked_config(values)
