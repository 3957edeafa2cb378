"""A folder with every kind of trouble in it: each is found, named, and told with what to do."""

import io
import json
import os

import numpy as np
import pytest
from PIL import Image

from flsl_jax.data.sources.opening import open_source
from flsl_jax.doctor import data as doctor
from flsl_jax.doctor.finding import Examination
from tests.tiny import tiny_config

GOOD = 30


def jpeg(seed, size=(48, 40)):
    pixels = np.random.default_rng(seed).integers(0, 255, (*reversed(size), 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(GOOD):
        (photos / f"{number:02}.jpg").write_bytes(jpeg(number))
    return photos


def config_of(folder, **keys):
    return tiny_config(data={"name": "folder", "root": str(folder), "count": 0, "scene_size": 0, **keys})


def examined(config, images_per_second=None):
    exam = Examination()
    doctor.examine(exam, config, images_per_second=images_per_second)
    return exam.findings


def named(name, findings):
    return [finding for finding in findings if finding.name == f"data/{name}"]


def test_good_images_are_green_but_few(folder):
    findings = examined(config_of(folder))
    assert [finding.name for finding in findings if finding.colour != "green"] == ["data/images"]
    count, few = named("images", findings)
    assert "30 in folder" in count.found
    assert "images: 30 JPEG; passed over: nothing" in count.found
    assert "3 steps an epoch, each image about 2.4 times" in count.found
    assert (
        few.found
        == "30 images are few: trained on 50 to 1,000 synthetic scenes, single tokens learned almost nothing "
        + ("that held for other scenes (docs/quickstart.md)")
    )
    assert named("damaged", findings)[0].found == "all of 30 sampled images can be read"
    assert named("copies", findings)[0].found == "no exact copies among 30 of 30 images"
    assert named("sizes", findings)[0].found == "shorter sides of 30: 32–63 px 100%"
    assert not named("16 bits", findings)
    assert not named("boxes", findings)


def test_a_damaged_file_a_copy_and_what_is_no_file_are_named(folder):
    (folder / "05.jpg").write_bytes((folder / "05.jpg").read_bytes()[:200])
    (folder / "copy.jpg").write_bytes((folder / "07.jpg").read_bytes())
    os.mkfifo(folder / "cam.jpg")
    findings = examined(config_of(folder))
    (damaged,), (copies,) = named("damaged", findings), named("copies", findings)
    assert damaged.colour == copies.colour == "yellow"
    assert damaged.found.startswith("1 of 31 sampled images cannot be read (05.jpg: ")
    assert "such as 07.jpg and copy.jpg" in copies.found or "such as copy.jpg and 07.jpg" in copies.found
    assert "cam.jpg (a FIFO)" in named("images", findings)[-1].found


def test_damage_that_would_end_a_run_is_red(folder):
    for number in range(25):
        (folder / f"{number:02}.jpg").write_bytes(b"no image")
    (finding,) = named("damaged", examined(config_of(folder)))
    assert finding.colour == "red"
    assert finding.found.startswith("25 of 30 sampled images cannot be read (")
    assert finding.found.endswith("more than config.data.max_corrupt_share = 0.1 allows")
    (finding,) = named("damaged", examined(config_of(folder, on_corrupt="fail")))
    assert "the first one ends the run" in finding.found
    for number in range(GOOD):
        (folder / f"{number:02}.jpg").write_bytes(b"no image")
    (finding,) = named("sample", examined(config_of(folder)))
    assert finding.colour == "red"
    assert "no readable record" in finding.found


@pytest.mark.parametrize(("brightest", "colour"), [(4095, "yellow"), (65535, "green")])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_files_that_use_12_bits_are_nearly_black(folder, brightest, colour, suffix):
    pixels = np.linspace(0, brightest, 40 * 48).reshape(40, 48).astype(np.uint16)
    Image.fromarray(pixels).save(folder / f"deep.{suffix}")
    (finding,) = named("16 bits", examined(config_of(folder)))
    assert finding.colour == colour
    dark = "files with 16 bits have values from 0 to 4,095 of 0 … 65,535 (1 of 31 files looked at"
    deep = "files with more than 8 bits: 1 of 31, with values from 0 to 65,535"
    assert finding.found.startswith(dark if brightest < 65535 else deep)
    assert (f"deep.{suffix}" in finding.found) == (colour == "yellow")


def test_small_images_and_a_histogram_of_sizes(folder):
    for number in range(25):
        (folder / f"{number:02}.jpg").write_bytes(jpeg(number, size=(20, 16)))
    (finding,) = named("sizes", examined(config_of(folder)))
    assert finding.colour == "yellow"
    assert finding.found.startswith("shorter sides of 30: 16–31 px 83%, 32–63 px 17%; 83% are smaller than")


def test_images_that_come_too_slowly_are_yellow(folder):
    (fast,) = named("reading", examined(config_of(folder), images_per_second=10.0))
    (slow,) = named("reading", examined(config_of(folder), images_per_second=1e9))
    assert (fast.colour, slow.colour) == ("green", "yellow")
    assert "the devices train on at most 10 images/s, probably on 3.0" in fast.found
    assert "config.compute.workers" in slow.advice or "take more cores" in slow.advice


def test_a_batch_larger_than_the_data_set_is_red(tmp_path, folder):
    config = tiny_config(batch_size=64, data={"name": "folder", "root": str(folder)})
    (finding,) = named("batch", examined(config))
    assert finding.colour == "red"
    assert "is larger than the data set" in finding.found
    (finding,) = named("images", examined(config_of(tmp_path / "nowhere")))
    assert finding.colour == "red"
    assert "nowhere cannot be read" in finding.found


def test_the_sample_ends_in_time(folder):
    config = config_of(folder)
    sample = doctor.take_sample(config, open_source(config.data), seconds=0.0)
    assert (sample.asked, sample.timed) == (1, 0)
    assert "too few images" in doctor._reading(config, sample, wanted=None).found


def boxes(path, names):
    images = [{"id": number, "file_name": name, "width": 48, "height": 40} for number, name in enumerate(names)]
    annotations = [
        {"id": image["id"], "image_id": image["id"], "category_id": 1, "bbox": [1, 1, 9, 9]} for image in images
    ]
    categories = [{"id": 1, "name": "thing"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return str(path)


def test_boxes_say_how_many_images_they_match(tmp_path, folder):
    whole = boxes(tmp_path / "whole.json", [f"{number:02}.jpg" for number in range(GOOD)])
    half = boxes(tmp_path / "half.json", ["00.jpg", "x.jpg", "y.jpg"])
    other = boxes(tmp_path / "other.json", ["x.jpg"])
    (finding,) = named("boxes", examined(config_of(folder, boxes=whole)))
    assert finding.colour == "green"
    assert finding.found.endswith("boxes for 30 of 30 images")
    (finding,) = named("boxes", examined(config_of(folder, boxes=half)))
    assert finding.colour == "yellow"
    assert "2 of 3 names not in" in finding.found
    exam = Examination()
    scenes = {"name": "folder", "root": str(folder)}
    values = {"every_epochs": 1.0, "tasks": ("bbox_knn",)}
    values["bbox_knn"] = {"train": {**scenes, "boxes": whole}, "val": {**scenes, "boxes": other}}
    doctor.examine(exam, tiny_config(evaluation=values), images_per_second=None)
    good, bad = named("boxes", exam.findings)
    assert (good.colour, bad.colour) == ("green", "red")
    assert bad.found.startswith("config.evaluation.bbox_knn.val: boxes ")
    assert not named("evaluation", exam.findings), "it would say the same"


def test_the_data_of_an_evaluation_are_opened(folder):
    scenes = {"name": "scenes", "count": 8, "scene_size": 32, "split": "val"}
    values = {"every_epochs": 1.0, "tasks": ("bbox_knn",), "bbox_knn": {"train": scenes, "val": scenes}}
    (finding,) = named("evaluation", examined(tiny_config(evaluation=values)))
    assert (finding.colour, finding.found) == ("green", "the data of bbox_knn are there")
    values["bbox_knn"] = {"train": scenes, "val": {"name": "folder", "root": str(folder / "nowhere")}}
    (finding,) = named("evaluation", examined(tiny_config(evaluation=values)))
    assert finding.colour == "red"
