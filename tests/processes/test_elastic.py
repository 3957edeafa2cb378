"""A run goes on with another number of processes and devices, and of devices that share its parameters, as if nothing was."""

import numpy as np

from flsl_jax.workdir import read_metrics
from tests.processes.commands import ended, start, start_two


def test_two_by_four_then_one_by_eight_then_two_by_one_equal_one_by_one(tmp_path):
    stages = (
        (lambda *flags: [start(tmp_path / "whole", *flags)], 6, 1),
        (lambda *flags: start_two(tmp_path / "parts", *flags, devices=4), 2, 4),
        (lambda *flags: [start(tmp_path / "parts", *flags, devices=8)], 4, 2),
        (lambda *flags: start_two(tmp_path / "parts", *flags), 6, 1),
    )
    for begin, stop, fsdp in stages:
        processes = begin(f"--config.stop_at_step={stop}", f"--config.parallel.fsdp={fsdp}")
        outputs = ended(processes)
        assert {process.returncode for process in processes} == {0}, outputs
    whole, parts = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts"))
    assert [line["step"] for line in parts] == [1, 2, 3, 4, 5, 6]
    for ours, expected in zip(parts, whole, strict=True):
        for name in ("loss", "intra", "inter", "volume"):
            np.testing.assert_allclose(ours[name], expected[name], rtol=1e-6, atol=1e-6, err_msg=name)
