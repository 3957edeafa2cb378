"""The metrics of a fine-tuning run in words, and beside the paper's numbers; imports no torch."""

import dataclasses
from collections.abc import Iterator, Mapping

from flsl_jax.transfer.config import TransferConfig

MAIN_METRICS = ("voc_ap70", "box_ap", "mask_ap", "miou")
_OF_A_KIND = {
    "ap": "{} AP",
    "ap50": "{} AP at IoU 0.5",
    "ap75": "{} AP at IoU 0.75",
    "ap_small": "{} AP of objects below 32 × 32 px",
    "ap_medium": "{} AP of objects between these sizes",
    "ap_large": "{} AP of objects above 96 × 96 px",
    "ar1": "{} recall of the surest detection of an image",
    "ar10": "{} recall of the 10 surest of an image",
    "ar": "{} recall of the 100 surest of an image",
    "ar_small": "{} recall of objects below 32 × 32 px",
    "ar_medium": "{} recall of objects between these sizes",
    "ar_large": "{} recall of objects above 96 × 96 px",
}
WORDS = {
    "voc_ap70": "VOC AP at IoU 0.7",
    **{f"{kind}_{key}": words.format(kind) for kind in ("box", "mask") for key, words in _OF_A_KIND.items()},
    "miou": "mIoU",
    "macc": "mean accuracy of the classes",
    "aacc": "accuracy of the pixels",
}
# What the last lines on the terminal name.
BRIEF = ("voc_ap70", "box_ap", "box_ap50", "box_ap75", "mask_ap", "mask_ap50", "mask_ap75", "miou", "macc", "aacc")


@dataclasses.dataclass(frozen=True)
class MetricRow:
    """A metric from 0 to 1 by its name and in words: this run's, and the paper's for FLSL and DINO; None: not known."""

    name: str
    words: str
    value: float | None
    flsl: float | None
    dino: float | None


def metric_rows(config: TransferConfig, metrics: Mapping[str, float]) -> Iterator[MetricRow]:
    """A row for each metric that the run or the paper has, in one order for all runs."""
    numbers = config.paper_numbers
    paper = {name: (flsl, dino) for name, flsl, dino in zip(numbers.metrics, numbers.flsl, numbers.dino, strict=True)}
    for name in dict.fromkeys([*(name for name in WORDS if name in metrics or name in paper), *metrics, *paper]):
        flsl, dino = (number / 100 if number else None for number in paper.get(name, (0.0, 0.0)))
        yield MetricRow(name, WORDS.get(name, name), metrics.get(name), flsl, dino)
