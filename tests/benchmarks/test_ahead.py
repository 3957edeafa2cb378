"""The step compiled for TPUs that are not there, where the extra `ahead` is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("libtpu")

ROOT = Path(__file__).resolve().parents[2]


def compiled(tmp_path, *flags):
    """What `benchmarks.ahead` writes, and what it prints."""
    output = tmp_path / "facts.json"
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.ahead", f"--json={output}", *flags],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(output.read_text()), done.stdout


def test_a_small_step_compiles_and_every_figure_is_there(tmp_path):
    facts, printed = compiled(tmp_path, "--config=tests/tiny.py", "--topology=v5e:2x2", "--config.parallel.fsdp=4")
    assert printed.startswith("4 × TPU v5 lite, batch 8, fsdp 4, bfloat16, blocks scan, ")
    assert facts["memory"]["peak_memory"] > 0
    assert facts["narrow_sums"] == {}
    assert set(facts["products"]) >= {"bf16 × bf16 → bf16", "bf16 × bf16 → f32", "f32 × f32 → f32, highest"}
    kinds = {one["kind"] for one in facts["collectives"]}
    assert "all-gather" in kinds
    assert "all-to-all" not in kinds


def test_a_step_for_two_slices_compiles(tmp_path):
    facts, printed = compiled(tmp_path, "--config=tests/tiny.py", "--topology=v5e:2x2", "--slices=2")
    assert printed.startswith("8 × TPU v5 lite, batch 8, fsdp 1, ")
    assert "all-reduce" in {one["kind"] for one in facts["collectives"]}


def test_a_step_for_one_chip_compiles(tmp_path):
    facts, printed = compiled(tmp_path, "--config=tests/tiny.py", "--topology=v5e:1x1")
    assert printed.startswith("1 × TPU v5 lite, batch 8, fsdp 1, ")
    assert facts["collectives"] == []


@pytest.mark.skipif("FLSL_WHOLE_STEP" not in os.environ, reason="takes minutes; set FLSL_WHOLE_STEP=1")
@pytest.mark.parametrize("fsdp", [1, 8])
def test_the_memory_of_the_whole_step_is_that_of_the_estimate_within_ten_percent(tmp_path, fsdp):
    """S/16 with 64 images a device, as in docs/scale.md."""
    facts, _ = compiled(tmp_path, "--topology=v5e:2x4", "--config.batch_size=512", f"--config.parallel.fsdp={fsdp}")
    assert facts["memory"]["peak_memory"] == pytest.approx(facts["estimate"]["total"], rel=0.1)
