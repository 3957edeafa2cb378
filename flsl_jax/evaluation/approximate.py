"""Nearest neighbours by an approximate index of FAISS, an extra, in place of the exact search of `bank.Bank`."""

import contextlib
import re
from typing import Any

import numpy as np

from flsl_jax.errors import UserError, first_line, require_packages
from flsl_jax.typing import Float, Int

# A number of channels that most codes of an index divide: with it the description of an index is tried before anything else.
_TRIED_WIDTH = 960
# Queries whose exact neighbours are looked for too.
_COMPARED = 128


def check_index(description: str) -> None:
    """Refuses an index that FAISS does not know.

    Raises:
        UserError: FAISS is not installed, or cannot read the description.
    """
    require_packages("faiss", install="install the package with its extra faiss, or pip install faiss-cpu")
    _made(description, width=_TRIED_WIDTH)


class ApproximateBank:
    """Features to search among, in host memory.

    Args:
        features: l2-normalised rows.
        description: of the index, as FAISS's index_factory takes it: "IVF1024,Flat", "HNSW32,Flat", "Flat".
        probes: lists of an IVF index that a query looks into; efSearch of an HNSW index.

    Raises:
        UserError: FAISS cannot make this index of these features.
    """

    def __init__(self, features: Float[np.ndarray, "M D"], *, description: str, probes: int) -> None:
        import faiss

        self._features, self.size, self._description = features, len(features), description
        self._index = _made(description, width=features.shape[1])
        try:
            self._index.train(features)
            self._index.add(features)
        except Exception as error:  # FAISS raises RuntimeError and AssertionError
            raise UserError(
                f"retrieval.index={description} cannot be made of the {self.size} rows of the memory ({_reason(error)}); "
                "name an index with fewer lists, or keep more patches"
            ) from error
        for name in ("nprobe", "efSearch"):
            with contextlib.suppress(RuntimeError):  # an index of another kind has no such parameter
                faiss.ParameterSpace().set_index_parameter(self._index, name, probes)

    def nearest(
        self, queries: Float[np.ndarray, "Q D"], *, k: int
    ) -> tuple[Float[np.ndarray, "Q n"], Int[np.ndarray, "Q n"]]:
        """Cosines and numbers of the rows that the index finds nearest, the nearest first; n is at most k.

        A place for which the index finds no row has a cosine of -inf and number 0.

        Raises:
            UserError: the index finds nothing for a query.
        """
        cosines, rows = self._index.search(queries, min(k, self.size))
        missing = rows < 0
        if missing.all(axis=1).any():
            raise UserError(
                f"retrieval.index={self._description} finds no neighbour for some patches; raise retrieval.probes"
            )
        return np.where(missing, -np.inf, cosines), np.where(missing, 0, rows).astype(np.int32)

    def found(self, queries: Float[np.ndarray, "Q D"], *, k: int) -> float:
        """The share of the k exact nearest rows that the index finds, for some of the queries, spread evenly."""
        import faiss

        some = queries[np.unique(np.linspace(0, len(queries) - 1, _COMPARED).astype(np.int64))]
        k = min(k, self.size)
        _, exact = faiss.knn(some, self._features, k, metric=faiss.METRIC_INNER_PRODUCT)
        _, rows = self._index.search(some, k)
        return float(np.mean([np.isin(right, own).mean() for right, own in zip(exact, rows, strict=True)]))


def _made(description: str, *, width: int) -> Any:
    """An empty index of inner products."""
    import faiss

    try:
        return faiss.index_factory(width, description, faiss.METRIC_INNER_PRODUCT)
    except Exception as error:  # FAISS raises RuntimeError
        raise UserError(
            f"retrieval.index={description} is no index of FAISS for {width} channels ({_reason(error)}); expected what its "
            "index_factory takes, such as IVF1024,Flat or HNSW32,Flat"
        ) from error


def _reason(error: Exception) -> str:
    """What FAISS says, without where in its code it says so."""
    return re.sub(r"^Error in .* at \S+:\d+: (?:Error: .* failed: )?", "", first_line(error))
