"""Approximate search: an index that searches everywhere finds what the exact one does; wrong ones are refused."""

import dataclasses
import importlib.util

import numpy as np
import pytest

from flsl_jax.config import RetrievalConfig
from flsl_jax.errors import UserError
from flsl_jax.evaluation.approximate import ApproximateBank, check_index
from flsl_jax.evaluation.bank import Bank
from flsl_jax.evaluation.encoder import PixelEncoder
from flsl_jax.evaluation.protocols.retrieval import evaluate, open_data
from flsl_jax.evaluation.unit_vectors import unit_vectors
from tests.mask_encoders import PATCH, SIZE, scenes

SETTINGS = RetrievalConfig(train=scenes(12, split="train"), val=scenes(4, split="val"), size=SIZE)
PIXELS = PixelEncoder(patch_size=PATCH, image_size=SIZE)


def _vectors(count: int, seed: int) -> np.ndarray:
    return unit_vectors(np.random.default_rng(seed).standard_normal((count, 16)).astype(np.float32))


@pytest.mark.skipif(importlib.util.find_spec("faiss") is not None, reason="FAISS is installed")
def test_without_faiss_the_extra_is_named() -> None:
    with pytest.raises(UserError, match="faiss is not installed; install the package with its extra faiss"):
        open_data(dataclasses.replace(SETTINGS, index="Flat"), patch_size=PATCH, image_size=SIZE)


class TestWithFaiss:
    """What needs FAISS."""

    @pytest.fixture(autouse=True)
    def _faiss(self) -> None:
        pytest.importorskip("faiss")

    @pytest.mark.parametrize("description", ["Flat", "IVF8,Flat", "HNSW32,Flat"])
    def test_an_index_that_searches_everywhere_is_the_exact_one(self, description: str) -> None:
        features, queries = _vectors(500, 0), _vectors(40, 1)
        bank = ApproximateBank(features, description=description, probes=500)
        cosines, rows = bank.nearest(queries, k=30)
        exact = queries @ features.T
        expected = np.argsort(-exact, axis=1)[:, :30]
        np.testing.assert_array_equal(rows, expected)
        np.testing.assert_allclose(cosines, np.take_along_axis(exact, expected, axis=1), atol=1e-5)
        assert bank.found(queries, k=30) == 1
        np.testing.assert_array_equal(np.asarray(Bank.place([features]).nearest(queries, k=30)[1]), rows)

    def test_fewer_probes_find_a_share(self) -> None:
        features, queries = _vectors(500, 0), _vectors(40, 1)
        bank = ApproximateBank(features, description="IVF32,Flat", probes=1)
        _, rows = bank.nearest(queries, k=5)
        exact = np.argsort(-queries @ features.T, axis=1)[:, :5]
        share = np.mean([np.isin(right, own).mean() for right, own in zip(exact, rows)])
        assert bank.found(queries, k=5) == pytest.approx(share)
        assert 0.1 < share < 0.9

    def test_retrieval_by_an_exact_index_scores_the_same_and_says_what_it_finds(self) -> None:
        exact = evaluate(PIXELS, SETTINGS, batch_size=4)
        flat = evaluate(PIXELS, dataclasses.replace(SETTINGS, index="Flat"), batch_size=4)
        assert flat.metrics == pytest.approx(exact.metrics, abs=1e-3)
        assert "neighbours_found" not in exact.judged
        assert flat.judged["neighbours_found"] == pytest.approx(1, abs=0.01)
        coarse = evaluate(PIXELS, dataclasses.replace(SETTINGS, index="IVF64,Flat", probes=1), batch_size=4)
        assert coarse.judged["neighbours_found"] < 0.9
        assert "of the nearest patches; raise probes" in coarse.warnings[-1]

    @pytest.mark.parametrize("description", ["Falt", "IVF0", "IVF8,PQ7", ",", "Flat\nFlat"])
    def test_what_faiss_does_not_know_is_one_line(self, description: str) -> None:
        with pytest.raises(UserError, match="is no index of FAISS") as caught:
            check_index(description)
        assert "\n" not in str(caught.value)

    def test_more_lists_than_rows_are_one_line(self) -> None:
        with pytest.raises(UserError, match="cannot be made of the 20 rows of the memory"):
            ApproximateBank(_vectors(20, 0), description="IVF64,Flat", probes=1)
