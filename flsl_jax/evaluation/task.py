"""The contract of an evaluation: what a task says about itself, how it is called, and what it returns."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Generic, Protocol, TypeVar, runtime_checkable

from flsl_jax.data.images.levels import RGB, Decoding
from flsl_jax.evaluation.encoder import Encoder

_Settings = TypeVar("_Settings")
_Data = TypeVar("_Data")
_SettingsIn = TypeVar("_SettingsIn", contravariant=True)
_DataIn = TypeVar("_DataIn", contravariant=True)
_DataOut = TypeVar("_DataOut", covariant=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """What an evaluation measured.

    `metrics`: numbers by name; the first one is the protocol's own. `rows`: a table beside them, such as a row for each
    class or video, all with the same keys. `images`: how many different images were encoded for the metrics, those of a
    bank or memory included; the copies that fill a batch up do not count. 0 where finished predictions are judged. `judged`:
    what the metrics are of, such as the share of the pixels that are ignored. `warnings`: why they may mean less than they
    seem to, each a line.
    """

    metrics: Mapping[str, float]
    rows: Sequence[Mapping[str, float | int | str]] = ()
    images: int
    judged: Mapping[str, float | int] = dataclasses.field(default_factory=dict)
    warnings: Sequence[str] = ()


@runtime_checkable
class OpenData(Protocol[_SettingsIn, _DataOut]):
    """Opens the data of a task and finds bad input before anything is encoded."""

    def __call__(
        self, settings: _SettingsIn, *, patch_size: int, image_size: int, decoding: Decoding = RGB
    ) -> _DataOut:
        """The data, to be passed to `Evaluate` any number of times.

        Args:
            settings: of the protocol.
            patch_size: of the encoder, in pixels.
            image_size: height and width in pixels that the encoder was trained at.
            decoding: how files are read for the encoder.

        Raises:
            UserError: bad input, as far as it can be told without encoding an image.
        """
        ...


@runtime_checkable
class Evaluate(Protocol[_SettingsIn, _DataIn]):
    """Measures frozen features."""

    def __call__(
        self, encoder: Encoder, settings: _SettingsIn, *, batch_size: int, data: _DataIn | None = None
    ) -> Scores:
        """The scores of an encoder.

        Args:
            encoder: whose features are judged.
            settings: of the protocol.
            batch_size: images of the encoder's training size that are encoded at a time.
            data: from `OpenData`; None: opened here.

        Raises:
            UserError: bad input.
        """
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(Generic[_Settings, _Data]):
    """One evaluation.

    `name`: of the task and of its group in `EvaluationConfig`. `settings`: the dataclass of that group. `open` and
    `evaluate`: see `OpenData` and `Evaluate`. `judges`, `needs`: which question it answers and which data it needs, for a
    person who has not seen it. `reference`: what the paper or another work reports under the same protocol; empty where
    nobody does. `without_model`: whether these settings judge finished predictions, so that no model is needed. `folder`: the
    setting, if there is one, that names a folder for what is made of one model; several models cannot share it.
    """

    name: str
    settings: type[_Settings]
    open: OpenData[_Settings, _Data]
    evaluate: Evaluate[_Settings, _Data]
    judges: str
    needs: str
    reference: str = ""
    without_model: Callable[[_Settings], bool] = lambda settings: False
    folder: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What one call of a task gave: `scores`, and the `seconds` that it took."""

    scores: Scores
    seconds: float
