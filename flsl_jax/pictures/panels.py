"""What sheets are made of: panels of one image, lines of panels, and the scale that the maps of a sheet share."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from flsl_jax.pictures.images import Query, ShownImage
from flsl_jax.typing import Float, UInt8

# Okabe and Ito's colour-blind-safe palette.
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")


@dataclasses.dataclass(frozen=True)
class MapPanel:
    """One value for each patch, in the sheet's scale."""

    values: Float[np.ndarray, "h w"]


@dataclasses.dataclass(frozen=True)
class ColourPanel:
    """Colours of patches or pixels; `legend`: hexadecimal colours and what they mean; `note`: a line of text below it."""

    colours: UInt8[np.ndarray, "h w 3"]
    legend: tuple[tuple[str, str], ...] = ()
    note: str = ""


@dataclasses.dataclass(frozen=True)
class PointsPanel:
    """Points in the plane, each in its own colour from 0 to 1."""

    points: Float[np.ndarray, "N 2"]
    colours: Float[np.ndarray, "N 3"]


Panel = MapPanel | ColourPanel | PointsPanel


@dataclasses.dataclass(frozen=True)
class Line:
    """One image, or one query place in it, with its panels by name."""

    image: ShownImage
    panels: Mapping[str, Panel]
    query: Query | None = None


@dataclasses.dataclass(frozen=True)
class Scale:
    """What all maps of a sheet share: the bar's label, a colour map, and the values at its ends; None: from the maps."""

    label: str
    colour_map: str = "viridis"
    low: float | None = None
    high: float | None = None


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A picture of one or several models.

    `lines`: of each model, by the title of its column; all models have lines of the same images. `title`: above the sheet.
    `scale`: of the `MapPanel`s; None if there are none.
    """

    lines: Mapping[str, Sequence[Line]]
    title: str
    scale: Scale | None = None
