"""One run with random weights, and its conversions, for all tests of one file."""

import functools

import pytest

from flsl_jax.weights.export.exporting import ExportOptions, export
from flsl_jax.weights.export.trained import read_trained
from tests.weights.conversion import place, small_config, write_run


@pytest.fixture(scope="module", name="workdir")
def _workdir(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "first", small_config())


@pytest.fixture(scope="module", name="trained")
def _trained(workdir):
    return read_trained(workdir, networks=("teacher", "student"))


@pytest.fixture(scope="module", name="converted")
def _converted(workdir, tmp_path_factory):
    """The report of a conversion with default options, made once for each format and suffix."""
    folder = tmp_path_factory.mktemp("converted")

    @functools.cache
    def convert(name, suffix):
        return export(workdir, place(folder, name, suffix), ExportOptions(format=name))

    return lambda name, suffix=".safetensors": convert(name, suffix)
