"""The last lines of a fine-tuning run: a table of what was measured, with the paper's numbers where the config has them."""

from pathlib import Path

from flsl_jax.transfer.config import TransferConfig
from flsl_jax.transfer.judging.metrics import BRIEF, metric_rows
from flsl_jax.transfer.training import TransferOutcome


def summary(config: TransferConfig, *, workdir: Path, outcome: TransferOutcome) -> str:
    """A table, and where the run lies."""
    where = f"step {outcome.step}{'' if outcome.finished else ' (not the last)'}, {workdir}"
    if config.main_metric not in outcome.metrics:
        return f"nothing measured yet; {where}"
    rows = [row for row in metric_rows(config, outcome.metrics) if row.name in BRIEF]
    lines = [f"{row.words:<30}{_percent(row.value)}" for row in rows]
    if config.paper_numbers.metrics:
        lines = [f"{line}{_percent(row.flsl)}{_percent(row.dino)}" for line, row in zip(lines, rows)]
        lines = [f"{'':<30}{'this run':>10}{'FLSL':>10}{'DINO':>10}", *lines]
        lines.append(f"FLSL and DINO: as the paper has them, {config.paper}")
    elif config.paper:
        lines.append(config.paper)
    return "\n".join([*lines, where])


def _percent(value: float | None) -> str:
    return f"{'–':>10}" if value is None else f"{value:10.1%}"
