"""The last lines of a fine-tuning run: a table of what was measured, with the paper's numbers where the config has them."""

from pathlib import Path

from flsl_jax.transfer.config import TransferConfig
from flsl_jax.transfer.training import MAIN_METRIC, TransferOutcome

_SHOWN = {
    "box_ap": "box AP",
    "box_ap50": "box AP at IoU 0.5",
    "box_ap75": "box AP at IoU 0.75",
    "mask_ap": "mask AP",
    "mask_ap50": "mask AP at IoU 0.5",
    "mask_ap75": "mask AP at IoU 0.75",
    "miou": "mIoU",
    "macc": "mean accuracy of the classes",
    "aacc": "accuracy of the pixels",
}


def summary(config: TransferConfig, *, workdir: Path, outcome: TransferOutcome) -> str:
    """A table, and where the run lies."""
    lines = [f"{words:<30}{outcome.metrics[name]:7.1%}" for name, words in _SHOWN.items() if name in outcome.metrics]
    where = f"step {outcome.step}{'' if outcome.finished else ' (not the last)'}, {workdir}"
    if MAIN_METRIC[config.network.kind] not in outcome.metrics:
        return f"nothing measured yet; {where}"
    return "\n".join([*lines, *([config.paper] if config.paper else []), where])
