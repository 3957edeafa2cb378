"""Numbers of the configuration out of their range, and values that do not go together: each refused in one line."""

import dataclasses
import functools
import math
import operator
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest

from configs import vits16
from flsl_jax.config import parse_config
from flsl_jax.config.ranges import Range, check_ranges
from flsl_jax.errors import UserError

ROOT = Path(__file__).parents[2]
INF, NAN = math.inf, math.nan


def config_with(changes):
    """`vits16` as a dictionary, with some keys, such as "optimizer.lr", changed."""
    values = vits16.get_config().to_dict()
    for key, value in changes.items():
        *groups, name = key.split(".")
        group = functools.reduce(operator.getitem, groups, values)
        assert name in group
        group[name] = value
    return values


def refusal(changes):
    with pytest.raises(UserError) as caught:
        parse_config(config_with(changes))
    return str(caught.value)


# Key, values, and what is expected of them instead.
OUT_OF_RANGE = [
    ("optimizer.lr", (INF,), "more than 0, finite (learning rate for 256 images)"),
    ("optimizer.lr", (NAN, 0.0, -1.0), "more than 0 (learning rate for 256 images)"),
    ("optimizer.lr", (1e300,), "more than 0 (learning rate for 256 images); float32 rounds it to inf"),
    ("optimizer.lr", (1e-60,), "more than 0 (learning rate for 256 images); float32 rounds it to 0.0"),
    ("optimizer.final_lr", (-1e-6, NAN), "0 or more (learning rate)"),
    ("optimizer.b1", (1, 2, NAN, -0.1), "at least 0 and less than 1 (decay rate of the mean)"),
    ("optimizer.b2", (1.0, -0.1), "at least 0 and less than 1 (decay rate of the mean square)"),
    (
        "optimizer.b2",
        (1 - 1e-9,),
        "at least 0 and less than 1 (decay rate of the mean square); float32 rounds it to 1.0",
    ),
    ("optimizer.warmup_epochs", (-5, NAN), "a number from 0 to 100000 (epochs)"),
    ("optimizer.freeze_last_layer_epochs", (-1, NAN), "a number from 0 to 100000 (epochs)"),
    ("optimizer.layer_decay", (0.0, 1.1, NAN), "more than 0 and at most 1 (times the learning rate of the next block)"),
    ("optimizer.clip_norm", (0.0, NAN), "more than 0 (l2 norm)"),
    ("optimizer.weight_decay.end", (-0.1, NAN), "0 or more (times the learning rate, a step)"),
    ("head.hidden", (0, -3), "1 or more (channels)"),
    ("head.bottleneck", (0,), "1 or more (channels)"),
    ("head.centroids", (0, 1), "2 or more (centroids)"),
    ("head.warmup_epochs", (-1.0, NAN), "a number from 0 to 100000 (epochs)"),
    ("model.drop_path", (1.5, 2, NAN, -0.1, 1.0), "at least 0 and less than 1 (probability)"),
    ("model.init_std", (0.0, NAN), "more than 0 (standard deviation)"),
    ("model.mlp_ratio", (0,), "1 or more (times the width)"),
    ("model.norm_eps", (0.0, -1e-6), "more than 0 (epsilon)"),
    ("model.pos_grid", (-1,), "0 or more (tokens on a side; 0: those of views.size)"),
    ("model.num_prefix", (0,), "1 or more (prefix tokens; used where they are kept)"),
    ("model.patch_size", (0,), "1 or more (pixels)"),
    ("model.depth", (0,), "1 or more (blocks)"),
    ("model.num_heads", (0,), "1 or more (attention heads)"),
    ("teacher.momentum.start", (1.5, 5, NAN, -0.1), "a number from 0 to 1 (share of the teacher that a step keeps)"),
    ("teacher.momentum.end", (1.5, NAN), "a number from 0 to 1 (share of the teacher that a step keeps)"),
    ("objective.self_inv_temp.start", (NAN, -0.1), "0 or more (inverse temperature)"),
    ("objective.self_inv_temp.epochs", (-1, NAN), "a number from 0 to 100000 (epochs)"),
    ("objective.cross_inv_temp.end", (INF,), "0 or more, finite (inverse temperature)"),
    ("objective.teacher_temp.start", (0.0, -0.04), "more than 0 (temperature)"),
    ("objective.student_temp", (0, NAN), "more than 0 (temperature)"),
    ("objective.projected_weight.end", (1.5,), "a number from 0 to 1 (share of the positives)"),
    ("objective.intra_weight.start", (-0.03,), "0 or more (weight in the loss)"),
    ("objective.inter_weight", (INF,), "0 or more, finite (weight in the loss)"),
    ("objective.volume_weight", (NAN, -5.0), "0 or more (weight in the loss)"),
    ("objective.sinkhorn_iterations", (0, -1), "1 or more (iterations)"),
    ("objective.center_momentum", (7, NAN), "a number from 0 to 1 (share of the mean that is kept)"),
    ("objective.query_window", (0,), "1 or more (tokens)"),
    ("objective.local_query_window", (0,), "1 or more (tokens)"),
    ("guide.weight.start", (1.5,), "a number from 0 to 1 (share of the attention)"),
    ("guide.num_heads", (-1,), "0 or more (attention heads; 0: those of 64 channels each)"),
    ("guide.inv_temp", (-1.0, NAN), "more than 0 (inverse temperature)"),
    ("views.brightness", (-1, NAN), "0 or more (strength)"),
    ("views.hue", (0.9, NAN), "a number from 0 to 0.5 (share of the colour circle)"),
    ("views.blur_probability", (1.2, NAN), "a number from 0 to 1 (probability)"),
    ("views.blur_sigma", ((0.0, 2.0), (NAN, 2.0)), "more than 0 (pixels) for each"),
    ("views.base_area", ((0.5, 1.5), (0.0, 1.0)), "more than 0 and at most 1 (share of the image) for each"),
    ("views.aspect", ((0.75, INF),), "more than 0, finite (width over height) for each"),
    ("views.size", (0, -224), "1 or more (pixels)"),
    ("stop_at_step", (-4,), "0 or more (steps; 0: not early)"),
    ("batch_size", (0, -512), "1 or more (images)"),
    ("epochs", (0, 2**31), "a number from 1 to 100000 (epochs)"),
    ("batch_size", (2**31,), "1 or more, at most 2147483647 (images)"),
    ("seed", (2**64, 2**32, -1), "a number from 0 to 4294967295 (32-bit seed)"),
    ("data.limit", (-1,), "0 or more (records; 0: all)"),
    ("data.count", (-1,), "0 or more (images)"),
    ("checkpoint.max_hours", (NAN, -1.0), "0 or more (hours; 0: no limit)"),
    ("checkpoint.every_epochs", (INF,), "more than 0, finite (epochs)"),
    ("checkpoint.every_epochs", (0.0, NAN), "more than 0 (epochs)"),
    ("checkpoint.keep", (0,), "1 or more (checkpoints)"),
    ("logging.every_steps", (0,), "1 or more (steps)"),
    ("parallel.data", (0, -2), "-1, or 1 or more (devices; -1: all that are left)"),
    ("parallel.fsdp", (0, -1), "1 or more (devices)"),
    ("parallel.timeout_seconds", (0,), "1 or more (seconds)"),
    ("compute.workers", (-1,), "0 or more (processes; 0: in the training process)"),
    ("compute.prefetch", (0,), "1 or more (batches)"),
    ("compute.micro_batches", (0,), "1 or more (parts of the batch)"),
    ("evaluation.every_epochs", (NAN, -1.0), "0 or more (epochs; 0: never)"),
    ("evaluation.batch_size", (0,), "1 or more (images)"),
    ("evaluation.bbox_knn.temp", (NAN, 0.0), "more than 0 (temperature of cosines)"),
    ("evaluation.bbox_knn.val.limit", (-1,), "0 or more (records; 0: all)"),
    ("evaluation.video.radius", (-1,), "0 or more (patches; 0: anywhere)"),
    ("evaluation.clustering.clusters", ((27, -1),), "0 or more (clusters; 0: as many as classes) for each"),
    ("evaluation.discovery.iou", (2.0,), "more than 0 and at most 1 (intersection over union)"),
    ("evaluation.linear_probe.lr", (INF,), "more than 0, finite (learning rate)"),
]


@pytest.mark.parametrize(
    ("key", "value", "expected"), [(key, value, expected) for key, values, expected in OUT_OF_RANGE for value in values]
)
def test_a_number_out_of_range_is_refused_by_key_value_and_range(key, value, expected):
    usual = functools.reduce(operator.getitem, key.split("."), config_with({}))
    shown = float(value) if isinstance(usual, float) else value
    assert refusal({key: value}) == f"config.{key} is {shown}; expected {expected}"


WEIGHTS = tuple(
    f"objective.{name}" for name in ("intra_weight.start", "intra_weight.end", "inter_weight", "volume_weight")
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.width": 66, "model.pos_embed": "sincos"}, 'a multiple of 4 with config.model.pos_embed = "sincos"'),
        ({"model.prefix_tokens": "keep"}, 'prefix_tokens is "keep", but config.init_from names no backbone'),
        ({"model.num_heads": 5}, "config.model.width = 384 is not divisible by config.model.num_heads = 5"),
        ({"head.warmup_epochs": 1.0}, "config.head.warmup_epochs is 1.0, which would freeze a random backbone"),
        (
            dict.fromkeys(WEIGHTS, 0.0),
            "are all 0; expected at least one that is more than 0",
        ),
        ({"views.size": 225}, "config.views.size is 225; expected a multiple of config.model.patch_size = 16"),
        ({"views.size": 32, "objective.query_window": 3}, "config.views.size = 32 gives 2×2 tokens"),
        ({"views.recipe": "released", "views.local_size": 100}, "config.views.local_size is 100; expected a multiple"),
        (
            {"views.recipe": "released", "objective.local_query_window": 7},
            "config.objective.local_query_window is 7, but config.views.local_size = 96 gives 6×6 tokens",
        ),
        ({"views.base_area": (0.9, 0.5)}, "config.views.base_area is (0.9, 0.5); expected (low, high) with low <= high"),
        ({"views.blur_sigma": (0.1, 1e6)}, "expected at most config.views.size = 224 (pixels)"),
        ({"batch_size": 10, "compute.micro_batches": 4}, "does not divide config.batch_size = 10"),
        ({"compute.attention": "cudnn", "compute.dtype": "float32"}, 'needs config.compute.dtype = "bfloat16"'),
        ({"compute.compile_cache": __file__}, "which cannot be used (Not a directory)"),
        ({"compute.compile_cache": f"{__file__}/cache"}, "which cannot be used (Not a directory)"),
        ({"parallel.num_processes": 2, "parallel.process_id": 2}, "expected less than config.parallel.num_processes = 2"),
        ({"evaluation.clustering.clusters": ()}, "config.evaluation.clustering.clusters is empty"),
        ({"evaluation.tasks": ("vidoe",)}, 'config.evaluation.tasks has \'vidoe\'; did you mean "video"?'),
    ],
    ids=str,
)  # fmt: skip
def test_values_that_do_not_go_together_are_refused_by_name(changes, message):
    assert message in refusal(changes)


SCENES = {"name": "scenes", "count": 2, "scene_size": 64}
MEASURED = {
    "evaluation.every_epochs": 1.0,
    **{f"evaluation.bbox_knn.{name}": SCENES for name in ("train", "val")},
    **{f"evaluation.linear_probe.{name}": SCENES for name in ("train", "val")},
}


@pytest.mark.parametrize(
    ("tasks", "best", "message"),
    [
        (("linear_probe",), "bbox_knn/any", "is 'bbox_knn/any'; expected TASK/METRIC, with a task of"),
        (("bbox_knn", "linear_probe"), "any", "config.evaluation.tasks: bbox_knn, linear_probe"),
        (("bbox_knn",), "bbox_knn/", "config.evaluation.best_metric is 'bbox_knn/'"),
        ((), "bbox_knn/any", "config.evaluation.tasks is empty"),
    ],
)
def test_the_best_checkpoint_is_chosen_by_a_task_that_is_measured(tasks, best, message):
    changes = MEASURED | {"evaluation.tasks": tasks, "evaluation.best_metric": best}
    assert message in refusal(changes)
    parse_config(config_with(changes | {"evaluation.every_epochs": 0.0}))
    right = {"evaluation.tasks": ("linear_probe",), "evaluation.best_metric": "linear_probe/miou"}
    parse_config(config_with(changes | right))


def test_a_folder_for_the_compile_cache_is_tried_and_left_as_it_was(tmp_path):
    parse_config(config_with({"compute.compile_cache": str(tmp_path / "new" / "cache")}))
    parse_config(config_with({"compute.compile_cache": "gs://bucket/cache"}))
    assert list(tmp_path.iterdir()) == []


def test_a_field_with_a_number_and_no_range_is_an_error():
    @dataclasses.dataclass(frozen=True)
    class Whole:
        count: Annotated[int, Range(0, unit="images")] = 1
        share: float = 0.5

    with pytest.raises(TypeError, match=r"Whole\.share has no Range"):
        check_ranges(Whole(), path="config")


def test_a_wrong_number_on_the_command_line_is_one_line_and_leaves_nothing(tmp_path):
    workdir = tmp_path / "run"
    flags = ("--config=configs/quickstart.py", f"--workdir={workdir}", "--config.optimizer.lr=inf")
    done = subprocess.run([sys.executable, "-m", "flsl_jax.main", *flags], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    expected = "more than 0, finite (learning rate for 256 images)"
    assert done.stderr == f"error: config.optimizer.lr is inf; expected {expected}\n"
    assert not workdir.exists()
