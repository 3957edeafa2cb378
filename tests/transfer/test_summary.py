"""The last lines on the terminal: what was measured, and the paper's numbers beside it."""

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("pycocotools")
pytest.importorskip("lightning_fabric")
from tests.transfer import operators

operators.install()
pytest.importorskip("torchvision")

from flsl_jax.config.files import load_config
from flsl_jax.transfer.config import parse_transfer_config
from flsl_jax.transfer.summary import summary
from flsl_jax.transfer.training import TransferOutcome


def lines(name, metrics, *, finished=True):
    config = parse_transfer_config(load_config(f"transfer/{name}").to_dict())
    outcome = TransferOutcome(step=8, finished=finished, metrics=metrics)
    return summary(config, workdir=Path("runs/x"), outcome=outcome).splitlines()


def test_the_papers_numbers_stand_beside_those_of_the_run():
    shown = lines("coco_maskrcnn_vits8", {"box_ap": 0.1234, "box_ap50": 0.5, "box_ap_large": 0.9, "mask_ap": 0.0})
    assert [line.split() for line in shown[:4]] == [
        ["this", "run", "FLSL", "DINO"],
        ["box", "AP", "12.3%", "46.5%", "–"],
        ["box", "AP", "at", "IoU", "0.5", "50.0%", "–", "–"],
        ["mask", "AP", "0.0%", "42.1%", "–"],
    ]
    assert len({len(line) for line in shown[:4]}) == 1
    assert shown[4:] == ["FLSL and DINO: as the paper has them, Table 1, ViT-S/8", "step 8, runs/x"]


def test_without_numbers_of_the_paper_there_is_one_column_and_without_any_it_says_so():
    assert [line.split() for line in lines("scenes_pixels", {"miou": 0.5, "aacc": 0.75}, finished=False)] == [
        ["mIoU", "50.0%"],
        ["accuracy", "of", "the", "pixels", "75.0%"],
        ["step", "8", "(not", "the", "last),", "runs/x"],
    ]
    assert lines("scenes_pixels", {}) == ["nothing measured yet; step 8, runs/x"]
