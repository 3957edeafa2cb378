"""Small real data beside the checkout, for tests that say more with it and skip without."""

import os
from pathlib import Path

import pytest


def shared_data(name: str) -> Path:
    """Folder `name` of the data (FLSL_TEST_DATA, else ../shared/data beside the checkout); skips the test without it."""
    root = Path(os.environ.get("FLSL_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (root / name).is_dir():
        pytest.skip(f"{root / name} is not there; set FLSL_TEST_DATA to the folder that holds {name}")
    return root / name
