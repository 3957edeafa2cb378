"""Grids from study files: the shipped ones over several bases, and what is refused."""

import re

import pytest

from flsl_jax.config import parse_config
from flsl_jax.config.files import load_config, study_names
from flsl_jax.errors import UserError
from flsl_jax.studies.grid import check_data, choose, make_plan
from tests.studies.plans import tiny_plan


@pytest.mark.parametrize("base", ["ablation", "vits16", "quickstart"])
@pytest.mark.parametrize("name", study_names())
def test_every_shipped_study_is_a_grid_over_every_base(name, base, tmp_path):
    plan = make_plan(name, load_config(base), seeds=(3, 4), workdir=tmp_path)
    assert len(plan.cells) == 2 * len(plan.study.variants) > 2
    assert [cell.index for cell in plan.cells] == list(range(len(plan.cells)))
    assert [cell.seed for cell in plan.cells] == [cell.config.seed for cell in plan.cells]
    assert len({cell.folder for cell in plan.cells}) == len(plan.cells)
    measured = ("bbox_knn", "discovery", "separability") if base == "quickstart" else ("bbox_knn",)
    assert plan.tasks == measured


def test_over_the_papers_base_the_values_are_the_papers(tmp_path):
    def plan(name):
        return make_plan(name, load_config("ablation"), workdir=tmp_path)

    assert {cell.config.epochs for cell in plan("centroids").cells} == {100}
    assert [cell.config.head.centroids for cell in plan("centroids").cells] == [1024, 2048, 4096, 8192, 16384]
    assert [cell.config.batch_size for cell in plan("batch_size").cells] == [64, 128, 256, 512, 1024, 2048]
    objectives = [cell.config.objective for cell in plan("coefficients").cells]
    assert [(one.targets, one.intra_weight.end, one.volume_weight) for one in objectives] == [
        *(("sinkhorn", intra, 1.0) for intra in (0.0, 0.01, 0.02, 0.03, 0.1)),
        ("softmax", 0.03, 1.0),
        ("softmax", 0.03, 5.0),
    ]
    assert [one.query_window for one in (cell.config.objective for cell in plan("pooling").cells)] == [2, 2, 4, 4]


def test_over_a_smaller_base_they_keep_the_papers_ratios(tmp_path):
    plan = make_plan("centroids", load_config("quickstart"), workdir=tmp_path)
    assert [cell.config.head.centroids for cell in plan.cells] == [32, 64, 128, 256, 512]
    assert plan.study.variants[2].setting == "K = 4096"


def test_over_the_papers_base_the_twin_is_that_of_its_own_config(tmp_path):
    flsl, dino = make_plan("methods", load_config("vits16"), workdir=tmp_path).cells
    assert flsl.config == parse_config(load_config("vits16").to_dict())
    assert dino.config == parse_config(load_config("dino_vits16").to_dict())


def test_a_run_is_described_by_what_differs_from_the_base(tmp_path):
    plan = tiny_plan(tmp_path, batch_size=32)
    assert [plan.shown_changes(variant) for variant in plan.study.variants] == [
        "head.centroids=8", "nothing", "batch_size=64",
    ]  # fmt: skip
    assert plan.shown_changes(tiny_plan(tmp_path, **{"head.centroids": 8}).study.variants[2]) == "batch_size=64"


def test_keys_of_the_base_hold_in_every_run(tmp_path):
    plan = tiny_plan(tmp_path, **{"optimizer.lr": 0.25})
    assert {cell.config.optimizer.lr for cell in plan.cells} == {0.25}


def study(text):
    return "def get_study(config):\n    return " + text + "\n"


WHOLE = '{"title": "t", "question": "q", "metrics": ["bbox_knn/any"], "variants": [%s]}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            study(WHOLE % '{"name": "a", "changes": {"modle.depth": 3}}'),
            "variant a: unknown key config.modle; did you mean",
        ),
        (study(WHOLE % '{"name": "a", "changes": {"seed.x": 3}}'), r"'seed.x', but config.seed is a value"),
        (study(WHOLE % '{"name": "a b"}'), "a variant 'a b'; expected letters"),
        (study(WHOLE % '{"name": "a"}, {"name": "a"}'), "two variants 'a'"),
        (study(WHOLE % '{"nam": "a"}'), 'did you mean "name"'),
        (study(WHOLE % ""), "has no variants"),
        (study((WHOLE % '{"name": "a"}').replace("knn/", "kn/")), "names the metric 'bbox_kn/any'"),
        (study("{1: 2}[config.seed]"), "mine.py, line 2: KeyError"),
        ("x = 1\n", r"defines no get_study\(\); a study file returns its grid"),
    ],
)
def test_a_wrong_study_is_refused_in_one_line(tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=message) as refused:
        tiny_plan(tmp_path, study=str(tmp_path / "mine.py"))
    assert "\n" not in str(refused.value)


def test_a_wrong_name_a_number_a_task_and_a_seed_are_refused(tmp_path):
    with pytest.raises(UserError, match='there is no study "centroid"; did you mean "centroids"'):
        tiny_plan(tmp_path, study="centroid")
    plan = tiny_plan(tmp_path)
    with pytest.raises(UserError, match=re.escape("--only=3: the study has 3 runs, numbered from 0 to 2")):
        choose(plan, [3])
    assert [cell.index for cell in choose(plan, [])] == [0, 1, 2]
    with pytest.raises(UserError, match="--seeds=1,1 has a seed twice"):
        tiny_plan(tmp_path, seeds=(1, 1))
    with pytest.raises(UserError, match=r'--tasks has .bbox_kn.; did you mean "bbox_knn"'):
        make_plan("centroids", load_config("quickstart"), tasks=["bbox_kn"], workdir=tmp_path)


def test_data_that_nobody_named_are_refused_before_the_first_run(tmp_path):
    with pytest.raises(UserError, match=r"^config.data.root is missing"):
        check_data(make_plan("centroids", load_config("ablation"), workdir=tmp_path))
    with pytest.raises(UserError, match=r"^config.evaluation.bbox_knn.train.root is missing"):
        check_data(tiny_plan(tmp_path))
