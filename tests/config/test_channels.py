"""Normalisation, augmentations and sources fit the number of channels, or one line says which does not and what to set."""

import dataclasses
import re

import pytest

from flsl_jax.config import parse_config, parse_saved_config, to_dict
from flsl_jax.config.files import load_config
from flsl_jax.config.imagenet import IMAGENET_MEAN, IMAGENET_STD
from flsl_jax.errors import UserError

GREY = {"saturation": 0.0, "hue": 0.0, "grayscale_probability": 0.0}


def parsed(channels, *, views=None, data=None):
    config = load_config("vits16").to_dict()
    config["data"] |= {"root": "photos", "channels": channels} | (data or {})
    config["views"] |= views or {}
    return parse_config(config)


def normalised(channels, **more):
    return {"mean": (0.5,) * channels, "std": (0.25,) * channels, **more}


def test_the_default_is_colour_as_imagenet_has_it():
    config = parsed(3)
    assert (config.views.mean, config.views.std) == (IMAGENET_MEAN, IMAGENET_STD)
    saved = to_dict(config)
    del saved["data"]["channels"], saved["views"]["mean"], saved["views"]["std"]
    assert parse_saved_config(saved) == dataclasses.replace(config)


@pytest.mark.parametrize("channels", [1, 2, 4, 16])
def test_channels_with_what_they_need(channels):
    views = normalised(channels, **GREY, solarise_probability=0.2 if channels == 1 else 0.0)
    assert parsed(channels, views=views).data.channels == channels


@pytest.mark.parametrize(
    ("channels", "views", "message"),
    [
        (0, {}, "config.data.channels is 0; expected a number from 1 to 16"),
        (17, {}, "config.data.channels is 17; expected a number from 1 to 16"),
        (4, {}, r"views: mean has 3 number\(s\), .* set --config.views.mean=0.5,0.5,0.5,0.5 "),
        (3, {"std": (0.2,)}, r"views: std has 1 number\(s\), .* set --config.views.std=0.25,0.25,0.25$"),
        (3, {"std": (0.2, 0.0, 0.2)}, "config.views.std is .*; expected a number from 0.001 to 1"),
        (3, {"mean": (0.2, 128.0, 0.2)}, "config.views.mean is .*; expected a number from 0 to 1"),
        (1, normalised(1), "saturation = 0.2, hue = 0.1, grayscale_probability = 0.2 need colour, and .* set "
         "--config.views.saturation=0 --config.views.hue=0 --config.views.grayscale_probability=0"),
        (1, normalised(1, jitter_probability=0.0), "config.views: grayscale_probability = 0.2 need colour"),
        (5, normalised(5, **GREY), "solarise_probability = 0.2 are defined for colour, and solarise for grey"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(channels, views, message):
    with pytest.raises(UserError, match=message):
        parsed(channels, views=views)


def test_one_message_has_every_flag_that_other_channels_need():
    with pytest.raises(UserError) as refused:
        parsed(4)
    flags = re.findall(r"--config\.views\.(\w+)=(\S+)", str(refused.value))
    views = {name: tuple(map(float, text.split(","))) if "," in text else float(text) for name, text in flags}
    assert set(views) == {"mean", "std", *GREY, "solarise_probability"}
    assert parsed(4, views=views).views.std == (0.25,) * 4


def test_scenes_are_colour():
    views = normalised(4, **GREY, solarise_probability=0.0)
    data = {"name": "scenes", "count": 600, "scene_size": 256}
    with pytest.raises(UserError, match=r'config.data.name is "scenes", which are colour images'):
        parsed(4, views=views, data=data)
    assert parsed(1, views=normalised(1, **GREY), data=data)
