"""A window is settled when a run begins and kept when it goes on."""

import dataclasses
import logging

import numpy as np
import pytest
from PIL import Image

from flsl_jax.config import parse_config
from flsl_jax.config.channels import read_window, write_window
from flsl_jax.config.files import load_config
from flsl_jax.data.sources.opening import FolderSource
from flsl_jax.errors import UserError
from flsl_jax.training.keeping.window import settled_images


@pytest.fixture
def source(tmp_path):
    Image.fromarray(np.arange(100, 2100).reshape(40, 50).astype(np.uint16)).save(tmp_path / "a.png")
    return FolderSource(tmp_path)


def config_of(window):
    config = load_config("vits16").to_dict()
    config["data"] |= {"root": "photos", "window": window}
    return parse_config(config)


def test_auto_is_measured_at_the_start_and_kept_by_a_run_that_goes_on(source):
    begun = settled_images(config_of("auto"), source)
    assert begun.data.window == "101,2098"
    saved = {"config": dataclasses.asdict(config_of("0,4095"))}
    assert settled_images(config_of("auto"), source, saved=saved).data.window == "0,4095"
    older = {"config": {"data": {}}}  # of a version without the key
    assert settled_images(config_of("auto"), source, saved=older).data.window == ""


@pytest.mark.parametrize("window", ["0,4095", "(0, 4095)", (0, 4095), "[0.0,4095.0]"])
def test_two_numbers_in_any_spelling_are_one_window(source, window):
    assert settled_images(config_of(window), source).data.window == "0,4095"


@pytest.mark.parametrize("window", ["4095,0", "7,7", "0", "0,1,2", "a,b", "0,inf", "nan,1", "automatic"])
def test_other_windows_are_refused(window):
    with pytest.raises(
        UserError, match=r"config\.data\.window is .*; expected two numbers, the first below the second"
    ):
        config_of(window)


def test_fractions_are_written_as_they_are():
    for low, high in ((-1000.0, 2000.0), (0.1, 0.30000000000000004), (-1e-9, 1e30)):
        assert read_window(write_window(low, high)) == (low, high)


def test_dark_files_are_said_unless_a_window_is_set(source, caplog):
    settled_images(config_of("0,4095"), source)
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        settled_images(config_of(""), source)
    assert "values from 100 to 2,099 of 0 … 65,535" in caplog.text
    assert "set config.data.window=0,2099, or auto" in caplog.text


def test_auto_without_deep_files_is_said(tmp_path, caplog):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert settled_images(config_of("auto"), FolderSource(tmp_path)).data.window == ""
    assert "none of 1 files looked at has more than 8 bits" in caplog.text


def test_files_with_several_pages_are_said_unless_all_are_used(tmp_path, caplog):
    page = Image.new("RGB", (8, 8))
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page, page])
    source = FolderSource(tmp_path)
    settled_images(config_of(""), source)
    assert "1 of 1 files looked at have several pages, such as a.tif with 3: the first of each is read" in caplog.text
    caplog.clear()
    config = config_of("")
    settled_images(dataclasses.replace(config, data=dataclasses.replace(config.data, pages="all")), source)
    assert not caplog.records


def test_images_that_the_network_cannot_take_are_refused_before_a_run(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((8, 8, 3)))
    with pytest.raises(UserError, match=r"no image of 1 can be read; the first: a\.npy: floating-point"):
        settled_images(config_of(""), FolderSource(tmp_path))
    assert settled_images(config_of("0,1"), FolderSource(tmp_path)).data.window == "0,1"
