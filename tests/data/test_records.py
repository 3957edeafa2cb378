"""The index check that all data sets share."""

import numpy as np
import pytest

from flsl_jax.data.records import checked_index


@pytest.mark.parametrize("index", [0, 4, np.int64(3)])
def test_an_index_of_any_integer_type_becomes_an_int(index) -> None:
    assert checked_index(index, 5) == index
    assert type(checked_index(index, 5)) is int


@pytest.mark.parametrize("index", [-1, 5, np.int64(9)])
def test_an_index_outside_is_refused(index) -> None:
    with pytest.raises(IndexError, match=f"record {index} of 5"):
        checked_index(index, 5)
