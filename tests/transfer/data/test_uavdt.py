"""UAVDT's folders and text files: what is read, left out and refused by name, and whole runs on a few frames."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")
pytest.importorskip("pycocotools")
pytest.importorskip("lightning_fabric")
from tests.transfer import operators

operators.install()
pytest.importorskip("torchvision")

from flsl_jax.config.files import load_config
from flsl_jax.errors import UserError
from flsl_jax.transfer.config import AugmentConfig, DetectionSourceConfig, parse_transfer_config
from flsl_jax.transfer.data.objects import open_objects
from flsl_jax.transfer.data.samples import TrainSamples
from flsl_jax.transfer.data.uavdt import CLIPS
from flsl_jax.transfer.judging.measuring import average_precision
from flsl_jax.transfer.summary import summary
from flsl_jax.transfer.training import fine_tune
from tests.transfer.test_fine_tuning import backbone_for
from tests.weights.test_initial import random_backbone, save

WIDTH, HEIGHT = 64, 48
VEHICLES = "1,1,4,6,20,10,1,1,1\n1,2,50,30,30,10,1,2,2\n3,1,8,6,20,10,1,1,3\n"


def uavdt(folder, *, clips=("M0101", "M0203"), frames=3, vehicles=VEHICLES, ignored="1,9,30,20,30,25,1,-1,-1\n"):
    """Clips of a few noisy frames with white vehicles; the second clip has no ignored areas."""
    (folder / "GT").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for clip in clips:
        (folder / "M" / clip).mkdir(parents=True)
        for frame in range(1, frames + 1):
            pixels = rng.integers(0, 60, (HEIGHT, WIDTH, 3), np.uint8)
            pixels[6:16, 4:24] = 255
            Image.fromarray(pixels).save(folder / "M" / clip / f"img{frame:06d}.jpg", quality=95)
        (folder / "GT" / f"{clip}_gt_whole.txt").write_text(vehicles)
    if ignored is not None:
        (folder / "GT" / f"{clips[0]}_gt_ignore.txt").write_text(ignored)
    (folder / "M" / clips[0] / "notes.txt").write_text("not a frame")
    return source(folder, clips=clips)


def source(folder, **changes):
    return DetectionSourceConfig(name="uavdt", root=str(folder / "M"), annotations=str(folder / "GT"), **changes)


def opened(config):
    return open_objects(config, path="config.data.val", masks=False)


def test_frames_vehicles_and_ignored_areas_are_read(tmp_path):
    images = opened(uavdt(tmp_path))
    assert (len(images), images.class_names) == (6, ("vehicle",))
    assert images.image(0).shape == (HEIGHT, WIDTH, 3)
    objects = images.objects(0, masks=False)
    np.testing.assert_array_equal(objects.xyxy, [[4, 6, 24, 16], [50, 30, 64, 40]])  # the second one is clipped
    np.testing.assert_array_equal(objects.labels, [1, 1])
    np.testing.assert_array_equal(images.boxes(0, crowds=False), [[4, 6, 24, 16], [50, 30, 80, 40]])
    np.testing.assert_array_equal(images.boxes(0, crowds=True), [[30, 20, 60, 45]])
    assert images.objects(1, masks=False).xyxy.shape == images.boxes(1, crowds=True).shape == (0, 4)
    np.testing.assert_array_equal(images.objects(2, masks=False).xyxy, [[8, 6, 28, 16]])
    assert images.boxes(3, crowds=True).shape == (0, 4)
    assert images.coco.imgs[images.image_ids[5]]["file_name"] == "M0203/img000003.jpg"
    assert len(opened(source(tmp_path, clips=("M0203",), limit=2))) == 2


def test_the_official_clips_are_30_and_20_of_which_none_is_in_both(tmp_path):
    assert [len(CLIPS[split]) for split in ("train", "test")] == [30, 20]
    assert len({*CLIPS["train"], *CLIPS["test"]}) == 50
    uavdt(tmp_path)
    with pytest.raises(UserError, match=r"M lacks 19 of the 20 clips, such as M0205.* as config\.data\.val\.clips"):
        opened(source(tmp_path, split="test"))
    with pytest.raises(UserError, match=r'config\.data\.val\.split is "val"; UAVDT has "train" and "test"'):
        opened(source(tmp_path, split="val"))
    with pytest.raises(UserError, match=r"config\.data\.val\.clips names a clip twice: M0101, M0101"):
        opened(source(tmp_path, clips=("M0101", "M0101")))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,1,a,6,20,10,1,1,1", 'line 2 is "1,1,a,6,20,10,1,1,1"; expected at least 9 numbers separated by commas'),
        ("1,1,4,6,20,10", "line 2 is .*; expected at least 9 numbers"),
        ("1,1,nan,6,20,10,1,1,1", "line 2 is .*; expected at least 9 numbers"),
        ("4,1,4,6,20,10,1,1,1", r"line 2 is of frame 4, which .*M0101 has no image of"),
        ("1.5,1,4,6,20,10,1,1,1", r"line 2 is of frame 1.5, which .*M0101 has no image of"),
        ("1,1,4,6,20,-10,1,1,1", "line 2 has a box of 20×-10 pixels"),
        ("1,1,4,6,20,10,1,1,4", r"line 2 has category 4; expected 1 \(car\), 2 \(truck\), 3 \(bus\)"),
    ],
)
def test_a_line_that_is_wrong_is_refused_by_its_file_and_number(tmp_path, line, message):
    config = uavdt(tmp_path, vehicles=f"1,1,4,6,20,10,1,1,1\n{line}\n")
    with pytest.raises(UserError, match=r"M0101_gt_whole\.txt " + message) as refused:
        opened(config)
    assert "\n" not in str(refused.value)


def test_what_is_missing_or_damaged_is_named(tmp_path):
    config = uavdt(tmp_path)
    whole = tmp_path / "GT" / "M0101_gt_whole.txt"
    (tmp_path / "GT" / "M0101_gt_ignore.txt").write_text("1,9,x\n")
    with pytest.raises(UserError, match=r"M0101_gt_ignore\.txt line 1 is .*; expected at least 6 numbers"):
        opened(config)
    (tmp_path / "GT" / "M0101_gt_ignore.txt").write_text("4,9,30,20,30,25\n2,9,30,20,30,25\n")
    assert [len(opened(config).boxes(index, crowds=True)) for index in range(3)] == [0, 1, 0]
    (tmp_path / "GT" / "M0101_gt_ignore.txt").unlink()
    whole.rename(tmp_path / "elsewhere.txt")
    with pytest.raises(UserError, match=r"GT has no M0101_gt_whole\.txt; name .* as config\.data\.val\.annotations"):
        opened(config)
    whole.write_bytes(b"\xff\xff\x00")
    with pytest.raises(UserError, match=r"M0101_gt_whole\.txt cannot be read"):
        opened(config)
    whole.write_text("\n")
    assert opened(config).objects(0, masks=False).xyxy.shape == (0, 4)
    (tmp_path / "M" / "M0101" / "img000001.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"img000001\.jpg cannot be read"):
        opened(config)
    for file in (tmp_path / "M" / "M0101").glob("*.jpg"):
        file.unlink()
    with pytest.raises(UserError, match=r"M0101 has no frame; expected img000001\.jpg"):
        opened(config)
    with pytest.raises(
        UserError, match=r"config\.data\.val\.annotations is missing; config\.data\.val\.name=uavdt needs it"
    ):
        opened(dataclasses.replace(config, annotations=""))


def test_a_frame_of_another_size_than_the_first_is_refused_and_masks_are_too(tmp_path):
    config = uavdt(tmp_path)
    Image.new("RGB", (32, 32)).save(tmp_path / "M" / "M0101" / "img000002.jpg")
    with pytest.raises(UserError, match=r"image M0101/img000002\.jpg is 32×32, but its annotations are of 64×48"):
        opened(config).image(1)
    with pytest.raises(UserError, match="has objects without masks; train kind=faster_rcnn"):
        open_objects(config, path="config.data.val", masks=True)


def detection(image_id, box, score):
    return {"image_id": image_id, "category_id": 1, "bbox": box, "score": score}


def test_both_metrics_leave_out_what_is_found_in_ignored_areas(tmp_path):
    config = uavdt(tmp_path, clips=("M0101",), vehicles="1,1,4,6,20,10,1,1,1\n2,1,4,6,20,10,1,1,1\n")
    images = opened(config)
    ids = images.image_ids
    found = [detection(ids[0], [4, 6, 20, 10], 0.8), detection(ids[1], [4, 6, 20, 10], 0.7)]
    ignored = detection(ids[0], [31, 21, 20, 20], 0.9)
    metrics = average_precision(images, [ignored, *found])
    assert metrics["voc_ap70"] == metrics["box_ap"] == 1.0
    # The same box in a frame without ignored areas is wrong: precision 0, 1/2, 2/3.
    metrics = average_precision(images, [detection(ids[2], [31, 21, 20, 20], 0.9), *found])
    assert metrics["voc_ap70"] == pytest.approx(2 / 3)
    # A box that leaves the area at one side is wrong by the toolkit's rule, and ignored by that of halves.
    leaving = detection(ids[0], [29, 21, 20, 20], 0.9)
    assert average_precision(images, [leaving, *found])["voc_ap70"] == pytest.approx(2 / 3)
    halves = opened(dataclasses.replace(config, ignored_rule="half"))
    assert average_precision(halves, [leaving, *found])["voc_ap70"] == 1.0
    assert average_precision(images, [])["voc_ap70"] == 0.0


def test_ignored_areas_are_background_or_painted_over_in_training_but_for_their_vehicles(tmp_path):
    config = uavdt(tmp_path, clips=("M0101",), frames=1, vehicles="1,1,4,6,20,10,1,1,1\n", ignored="1,9,14,4,30,30.5\n")
    augment = AugmentConfig(sizes=(HEIGHT,), max_size=WIDTH, flip=0.0)
    settings = {"batch_size": 1, "seed": 0, "augment": augment, "fill": (1.0, 0.0, 0.0)}
    plain, target = TrainSamples(opened(config), **settings)[0]
    painted, _ = TrainSamples(opened(dataclasses.replace(config, fill_ignored=True)), **settings)[0]
    np.testing.assert_array_equal(target["boxes"], [[4, 6, 24, 16]])
    hidden = np.zeros((HEIGHT, WIDTH), bool)
    hidden[4:35, 14:44] = True
    hidden[6:16, 4:24] = False
    np.testing.assert_array_equal(painted[:, ~hidden], plain[:, ~hidden])
    np.testing.assert_array_equal(painted[:, hidden], np.broadcast_to([[1.0], [0.0], [0.0]], (3, hidden.sum())))


def tiny_run(folder, **changes):
    values = load_config("transfer/uavdt_fasterrcnn_vits16").to_dict()
    values |= {"batch_size": 2, "steps": 2, "log_every": 1, "measure_every": 0, "precision": "32-true"} | changes
    values["network"] |= {"channels": 16, "blocks": (), "checkpointing": False}
    values["augment"] |= {"sizes": (HEIGHT,), "max_size": WIDTH}
    for name, clip in (("train", "M0101"), ("val", "M0203")):
        places = {"root": str(folder / "M"), "annotations": str(folder / "GT"), "clips": (clip,)}
        values["data"][name] |= places
    values["data"]["workers"] = 0
    return parse_transfer_config(values)


def test_a_run_is_trained_and_judged_by_uavdt_s_ap(tmp_path):
    uavdt(tmp_path)
    config = tiny_run(tmp_path)
    outcome = fine_tune(config, backbone=backbone_for(config), workdir=tmp_path / "run")
    assert outcome.finished
    assert 0.0 <= outcome.metrics["voc_ap70"] <= 1.0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["metrics"] == outcome.metrics
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["best"] == outcome.metrics["voc_ap70"]
    lines = summary(config, workdir=tmp_path / "run", outcome=outcome).splitlines()
    assert lines[0].startswith("VOC AP at IoU 0.7 ")
    assert lines[1].startswith("box AP ")


def test_a_run_that_learns_finds_the_vehicle_of_other_frames(tmp_path):
    uavdt(tmp_path, vehicles="1,1,4,6,20,10,1,1,1\n2,1,4,6,20,10,1,1,1\n3,1,4,6,20,10,1,1,2\n")
    config = tiny_run(tmp_path, steps=40, log_every=40, optimizer={"name": "adamw", "lr": 3e-3, "warmup_steps": 5})
    outcome = fine_tune(config, backbone=backbone_for(config), workdir=tmp_path / "run")
    assert outcome.metrics["voc_ap70"] == 1.0


def test_the_configs_are_the_recipe_of_table_3():
    for name in ("vits16", "vits8", "vitb16"):
        config = parse_transfer_config(load_config(f"transfer/uavdt_fasterrcnn_{name}").to_dict())
        assert config.main_metric == "voc_ap70"
        assert (config.data.train.split, config.data.val.split) == ("train", "test")
        optimizer = config.optimizer
        assert (optimizer.name, optimizer.lr, optimizer.momentum, optimizer.weight_decay) == ("sgd", 5e-4, 0.9, 1e-4)
        assert [round(share * 12) for share in optimizer.drops] == [8]
        assert (config.augment.sizes, config.augment.max_size, config.batch_size) == ((528,), 1072, 16)


def test_the_command_takes_clips_and_prints_uavdt_s_ap_first(tmp_path):
    uavdt(tmp_path)
    weights = save(tmp_path / "weights.safetensors", *random_backbone())
    program = (
        "from tests.transfer import operators; operators.install(); import runpy; "
        "runpy.run_module('flsl_jax.transfer', run_name='__main__', alter_sys=True)"
    )
    places = {"root": tmp_path / "M", "annotations": tmp_path / "GT"}
    data = [f"--config.data.{name}.{key}={place}" for name in ("train", "val") for key, place in places.items()]
    command = [
        *(sys.executable, "-c", program, "--config=transfer/uavdt_fasterrcnn_vits16", f"--backbone={weights}"),
        *(f"--workdir={tmp_path / 'run'}", "--num_heads=2", *data, "--config.data.workers=0", "--config.batch_size=2"),
        *(
            "--config.steps=2",
            "--config.network.channels=16",
            "--config.network.blocks=()",
            "--config.precision=32-true",
        ),
        *("--config.augment.sizes=(48,)", "--config.augment.max_size=64", "--config.measure_every=0"),
    ]
    clips = ["--config.data.train.clips=('M0101',)", "--config.data.val.clips=('M0203',)"]
    done = subprocess.run([*command, *clips], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("VOC AP at IoU 0.7 ")
    assert lines[-1] == f"step 2, {tmp_path / 'run'}"
