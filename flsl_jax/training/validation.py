"""What is measured and drawn during training: the evaluations that the config names, and a picture of the tokens."""

import dataclasses
import itertools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from flsl_jax.config import Config
from flsl_jax.data.images.levels import RGB, Decoding, decoding_of
from flsl_jax.errors import UserError
from flsl_jax.evaluation.encoder import Encoder, NetworkEncoder, PixelEncoder
from flsl_jax.evaluation.open_model import encoder_of, open_start
from flsl_jax.evaluation.protocols.bbox_knn import BboxKnnData
from flsl_jax.evaluation.tasks import check_names, open_task, run_task
from flsl_jax.pictures.strips import save_clusters, save_features
from flsl_jax.training.setup import Training
from flsl_jax.typing import UInt8

log = logging.getLogger(__name__)

_KNN = "bbox_knn"
_PIXELS = "pixels_"


class StoppedEvaluating(Exception):
    """The run was asked to stop while it measured."""


@dataclasses.dataclass(frozen=True)
class Validation:
    """The tasks of a run, with their data opened once. Every process measures all of them on its own devices.

    `settings` and `data` by the name of the task; `best_metric`: TASK/METRIC, which chooses the best checkpoint; `patch_size`
    and `image_size` of the network, in pixels, and `decoding`, how files are read for it; `told`: warnings that the log has
    already, each with its task.
    """

    settings: Mapping[str, Any]
    data: Mapping[str, Any]
    best_metric: str
    batch_size: int
    patch_size: int
    image_size: int
    decoding: Decoding = RGB
    told: set[tuple[str, str]] = dataclasses.field(default_factory=set, init=False)

    @classmethod
    def open(cls, config: Config) -> "Validation | None":
        """Opens the data of every task; None if the config wants no evaluation.

        Raises:
            UserError: a task is unknown, or its data cannot be read or lack what the task needs.
        """
        if not config.evaluation.every_epochs:
            return None
        check_names(config.evaluation.tasks)
        settings = {name: getattr(config.evaluation, name) for name in config.evaluation.tasks}
        sizes = {"patch_size": config.model.patch_size, "image_size": config.views.size}
        decoding = decoding_of(config.data)
        data = {name: open_task(name, values, decoding=decoding, **sizes) for name, values in settings.items()}
        return cls(
            settings=settings,
            data=data,
            best_metric=config.evaluation.best_metric,
            batch_size=config.evaluation.batch_size,
            decoding=decoding,
            **sizes,
        )

    def measure(
        self,
        training: Training,
        params: Any,
        *,
        stop: Callable[[int], bool] | None = None,
        baseline: bool = False,
    ) -> dict[str, float]:
        """Every task's metrics as `task/metric`, those of the bbox-aligned k-NN as `knn_any`, `knn_token`, ….

        Args:
            training: whose graph the parameters belong to.
            params: parameters on any devices; the teacher's as a rule.
            stop: called before each batch with the number of batches so far; True ends it. All processes call it alike.
            baseline: measure raw pixels too, as `task/pixels_metric`, and `knn_pixels_any`, ….

        Raises:
            StoppedEvaluating: `stop` returned True.
            UserError: `evaluation.best_metric` is not among the metrics.
        """
        batches = itertools.count()

        def poll() -> None:
            if stop is not None and stop(next(batches)):
                raise StoppedEvaluating

        encoder = local_encoder(training, params, name="teacher")
        values: dict[str, float] = {}
        for name in self.settings:
            values |= self._run(name, encoder, prefix=_prefix(name), poll=poll)
        if metric_key(self.best_metric) not in values:
            task = self.best_metric.partition("/")[0]
            names = [key.removeprefix(_prefix(task)) for key in values if key.startswith(_prefix(task))]
            raise UserError(
                f"config.evaluation.best_metric is {self.best_metric!r}, but {task} measures {', '.join(names)}; expected "
                f"one of these, such as {task}/{names[0]}"
            )
        if baseline:
            pixels = PixelEncoder(patch_size=self.patch_size, image_size=self.image_size, decoding=self.decoding)
            for name in self.settings:
                values |= self._run(name, pixels, prefix=_prefix(name) + _PIXELS, poll=poll)
        return values

    def _run(self, name: str, encoder: Encoder, *, prefix: str, poll: Callable[[], None]) -> dict[str, float]:
        outcome = run_task(
            name, self.settings[name], encoder=encoder, batch_size=self.batch_size, data=self.data[name], poll=poll
        )
        for line in outcome.scores.warnings:
            if (name, line) not in self.told:
                self.told.add((name, line))
                log.warning("WARNING: %s: %s", name, line)
        return {f"{prefix}{metric}": float(value) for metric, value in outcome.scores.metrics.items()}

    def is_measured(self, line: Mapping[str, Any]) -> bool:
        """Whether a line of metrics holds what `measure` gives."""
        return all(any(key.startswith(_prefix(name)) for key in line) for name in self.settings)

    def images(self, count: int) -> UInt8[np.ndarray, "I s s C"] | None:
        """The first images that the bbox-aligned k-NN asks about; None if it is not measured."""
        data = self.data.get(_KNN)
        if not isinstance(data, BboxKnnData) or data.val is None:
            return None
        return np.stack([image for image, *_ in itertools.islice(data.val, count)])


def metric_key(metric: str) -> str:
    """The name in `metrics.jsonl` of a metric TASK/METRIC."""
    task, _, name = metric.partition("/")
    return _prefix(task) + name


def pixels_key(metric: str) -> str:
    """The name in `metrics.jsonl` of a metric TASK/METRIC of raw pixels."""
    task, _, name = metric.partition("/")
    return _prefix(task) + _PIXELS + name


def _prefix(task: str) -> str:
    """The prefix of a task's metrics in `metrics.jsonl`."""
    return "knn_" if task == _KNN else f"{task}/"


def local_encoder(training: Training, params: Any, *, name: str) -> NetworkEncoder:
    """A network on this process's own devices.

    Every process must call this, with parameters on any devices; each may then use the result on its own.
    """
    local = jax.device_get(jax.jit(_identity, out_shardings=training.replicated)(params))
    step = training.pure_step
    backbone = nnx.merge(step.graph, local).backbone
    backbone.placement = None
    return encoder_of(backbone, step.config, name=name)


def draw_tokens(training: Training, params: Any, images: UInt8[np.ndarray, "I s s C"], workdir: Path) -> None:
    """Writes `features.png` and `clusters.png`: a network's tokens below those of what the run in `workdir` started from.

    All processes call it, the first writes. A start that cannot be read any more is left out with a warning.
    """
    encoders = {"trained": local_encoder(training, params, name="trained")}
    if jax.process_index() > 0:
        return
    config = training.pure_step.config
    try:
        start = {"at the start" if config.init_from else "untrained": open_start(config, workdir=workdir)}
    except UserError as error:
        log.warning("features.png and clusters.png show the trained network alone: %s", error)
        start = {}
    tokens = {name: np.asarray(encoder.tokens(images)) for name, encoder in (start | encoders).items()}
    save_features(images, tokens, workdir / "features.png")
    save_clusters(images, tokens, workdir / "clusters.png")


def _identity(tree: Any) -> Any:
    return tree
