"""Videos from files to scores: an encoder that knows the answer, real files, wrong files."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from flsl_jax.config import VideoConfig
from flsl_jax.data.images.levels import RGB, Decoding
from flsl_jax.data.truth.videos import FileVideo, open_videos
from flsl_jax.errors import UserError
from flsl_jax.evaluation import propagation
from flsl_jax.evaluation.encoder import NoEncoder, PixelEncoder
from flsl_jax.evaluation.protocols.video import evaluate, frame_size, propagate
from tests.davis_layout import write_layout

SCENES = VideoConfig(name="scenes", count=2, scene_size=64, split="val", short_side=64, frames=5)


@dataclasses.dataclass
class _Colours:
    """Tokens are the patches' colours, far apart for the colours below."""

    name: str = "colours"
    patch_size: int = 2
    image_size: int = 32
    decoding: Decoding = RGB
    blank: tuple[float, float, float] = (0.0, 0.0, 0.0)
    inv_temp: float | None = None

    def tokens(self, images):
        levels = jnp.asarray(images, jnp.float32)[:, ::2, ::2] - 127.5
        return levels / jnp.linalg.norm(levels, axis=-1, keepdims=True)


_PAINT = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)


def _painted_video(root, *, height, width):
    """Two squares of two colours that move towards each other, on patches' borders; the frames are their masks."""
    truth = np.zeros((6, height, width), np.uint8)
    for frame, mask in enumerate(truth):
        mask[4:12, 2 * frame : 2 * frame + 8] = 1
        mask[16:28, width - 12 - 2 * frame : width - 2 * frame] = 2
    for folder, pixels, suffix in (("JPEGImages", _PAINT[truth], ".png"), ("Annotations", truth, ".png")):
        (root / folder / "480p" / "painted").mkdir(parents=True)
        for frame, picture in enumerate(pixels):
            Image.fromarray(picture).save(root / folder / "480p" / "painted" / f"{frame:05d}{suffix}")
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("painted\n")
    return truth


@pytest.mark.parametrize(("height", "width"), [(32, 48), (48, 32), (32, 32)])
def test_objects_that_features_tell_apart_are_followed_to_the_pixel_row(tmp_path, height, width):
    truth = _painted_video(tmp_path / "davis", height=height, width=width)
    settings = VideoConfig(
        root=str(tmp_path / "davis"), short_side=32, side_multiple=16, radius=6, output=str(tmp_path / "out")
    )
    scores = evaluate(_Colours(), settings, batch_size=2)
    assert scores.metrics["j_mean"] > 0.97
    assert [(row["video"], row["object"]) for row in scores.rows] == [("painted", "1"), ("painted", "2")]
    assert next(iter(scores.metrics)) == "jf_mean"
    assert scores.metrics["jf_mean"] == pytest.approx((scores.metrics["j_mean"] + scores.metrics["f_mean"]) / 2)
    # What was written is what was judged.
    again = judge_files(dataclasses.replace(settings, predictions=settings.output))
    assert again == dataclasses.replace(scores, images=0)  # none was encoded
    with Image.open(tmp_path / "out" / "painted" / "00000.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), truth[0])
        assert picture.mode == "P"


def test_phantoms_are_told_and_left_out_of_a_number_beside_the_official_one(tmp_path):
    """One object with id 7: nothing is predicted where it is, and the 6 ids below it, which nobody sees, score 1 each."""
    _painted_video(tmp_path / "davis", height=32, width=48)
    for path in sorted((tmp_path / "davis" / "Annotations" / "480p" / "painted").iterdir()):
        ids = np.asarray(Image.open(path))
        Image.fromarray(np.where(ids == 1, np.uint8(7), np.uint8(0))).save(path)
        (tmp_path / "nothing" / "painted").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros_like(ids)).save(tmp_path / "nothing" / "painted" / path.name)
    settings = VideoConfig(root=str(tmp_path / "davis"), short_side=32, side_multiple=16, radius=6)
    scores = judge_files(dataclasses.replace(settings, predictions=str(tmp_path / "nothing")))
    assert scores.metrics["jf_mean"] == scores.metrics["j_mean"] == pytest.approx(6 / 7)
    assert scores.metrics["jf_mean_shown"] == 0
    assert [row["shown"] for row in scores.rows] == ["no"] * 6 + ["yes"]
    (warning,) = scores.warnings
    assert "6 of 7 objects, such as 1 in painted, are in no first frame" in warning
    followed = evaluate(_Colours(), settings, batch_size=2)
    assert followed.metrics["jf_mean_shown"] == pytest.approx(7 * followed.metrics["jf_mean"] - 6)
    assert 0.9 < followed.metrics["jf_mean_shown"] <= followed.metrics["jf_mean"] <= 1


def test_ids_without_gaps_give_no_other_number(tmp_path):
    _painted_video(tmp_path / "davis", height=32, width=48)
    settings = VideoConfig(root=str(tmp_path / "davis"), short_side=32, side_multiple=16, radius=6)
    scores = evaluate(_Colours(), settings, batch_size=2)
    assert (list(scores.metrics)[:2], scores.warnings) == (["jf_mean", "j_mean"], [])


def test_masks_of_0_and_255_are_said_to_be_undecided(tmp_path):
    _painted_video(tmp_path / "davis", height=32, width=48)
    for path in (tmp_path / "davis" / "Annotations" / "480p" / "painted").iterdir():
        Image.fromarray(np.where(np.asarray(Image.open(path)) > 0, np.uint8(255), np.uint8(0))).save(path)
    with pytest.raises(
        UserError, match=r"no object.*it has 0 and 255 alone, and 255 is undecided.*write 1 for the object"
    ):
        open_videos(VideoConfig(root=str(tmp_path / "davis")))


def test_batches_change_no_score_and_a_moving_scene_is_followed():
    encoder = PixelEncoder(patch_size=8, image_size=64)
    one, many = (evaluate(encoder, SCENES, batch_size=size) for size in (1, 64))
    assert one == many
    assert 0.2 < one.metrics["jf_mean"] < 1


def test_a_film_equals_propagation_frame_by_frame():
    """The real path, batches and devices included, against the parts called by hand."""
    encoder = PixelEncoder(patch_size=8, image_size=64)
    settings = dataclasses.replace(SCENES, count=1, context=2, radius=3)
    video = open_videos(settings).videos[0]
    found = propagate(encoder, video, settings, batch_size=64)
    labels = propagation.first_labels(video.mask(0), grid=(8, 8), channels=8)
    context = propagation.start(encoder.tokens(video.image(0)[None])[0], labels, context=2)
    for index in range(1, 5):
        tokens = encoder.tokens(video.image(index)[None])[0]
        context, labels = propagation.follow(context, tokens, radius=3, top_k=5, temp=0.1)
        np.testing.assert_array_equal(found[index], propagation.to_pixels(labels, patch_size=8))


def _still(folder, *, height, width):
    """A video of one frame of this size."""
    for kind, suffix in (("images", ".jpg"), ("masks", ".png")):
        (folder / kind).mkdir(parents=True)
        Image.fromarray(np.zeros((height, width), np.uint8)).save(folder / kind / f"00000{suffix}")
    return FileVideo("still", images=folder / "images", masks=folder / "masks")


@pytest.mark.parametrize(
    ("frame", "patch_size", "expected"),
    [
        ((480, 854), 16, (480, 832)),
        ((480, 910), 8, (480, 896)),
        ((854, 480), 16, (832, 480)),
        ((288, 512), 16, (480, 832)),
        ((100, 100), 16, (480, 448)),
    ],
)
def test_sizes_of_frames_by_hand(tmp_path, frame, patch_size, expected):
    video = _still(tmp_path, height=frame[0], width=frame[1])
    assert frame_size(video, VideoConfig(), patch_size=patch_size) == expected


def test_frames_that_the_patch_does_not_divide_are_refused(tmp_path):
    video = _still(tmp_path, height=48, width=86)
    with pytest.raises(UserError, match="resized to 832×480, which patches of 14 do not divide"):
        frame_size(video, VideoConfig(), patch_size=14)
    with pytest.raises(UserError, match="resized to 0×32"):
        frame_size(video, VideoConfig(short_side=32), patch_size=8)


def judge_files(settings):
    """Without a model."""
    return evaluate(NoEncoder(), settings, batch_size=1)


def _keep_masks(folder, *, kept):
    for path in folder.iterdir():
        if int(path.stem) not in kept:
            path.unlink()


def test_masks_of_some_frames_are_judged_there(tmp_path):
    """By hand: object 1 is predicted whole in frame 2 and nowhere in frame 4, object 2 never, and frame 5 has no truth."""
    truth = _painted_video(tmp_path / "davis", height=32, width=48)
    masks = tmp_path / "davis" / "Annotations" / "480p" / "painted"
    (tmp_path / "masks" / "painted").mkdir(parents=True)
    Image.fromarray(np.where(truth[2] == 1, truth[2], 0)).save(tmp_path / "masks" / "painted" / "00002.png")
    Image.fromarray(np.zeros_like(truth[4])).save(tmp_path / "masks" / "painted" / "00004.png")
    _keep_masks(masks, kept=(0, 2, 4))
    scores = judge_files(VideoConfig(root=str(tmp_path / "davis"), predictions=str(tmp_path / "masks")))
    assert [(row["j_mean"], row["f_mean"]) for row in scores.rows] == [(0.5, 0.5), (0, 0)]
    assert scores.metrics["jf_mean"] == 0.25
    (warning,) = scores.warnings
    assert "1 of 1 videos have masks of some frames alone, such as painted of 3 of 6" in warning
    settings = VideoConfig(root=str(tmp_path / "davis"), short_side=32, side_multiple=16, radius=6)
    assert evaluate(_Colours(), settings, batch_size=2).metrics["j_mean"] > 0.97


def test_with_a_mask_of_the_first_frame_alone_masks_are_written_and_nothing_is_judged(tmp_path):
    truth = _painted_video(tmp_path / "davis", height=32, width=48)
    _keep_masks(tmp_path / "davis" / "Annotations" / "480p" / "painted", kept=(0,))
    settings = VideoConfig(root=str(tmp_path / "davis"), short_side=32, side_multiple=16, radius=6)
    for refused in (settings, dataclasses.replace(settings, predictions=str(tmp_path), output=str(tmp_path / "out"))):
        with pytest.raises(UserError, match="no video has a mask beside that of its first frame, such as painted"):
            evaluate(_Colours(), refused, batch_size=2)
    scores = evaluate(_Colours(), dataclasses.replace(settings, output=str(tmp_path / "out")), batch_size=2)
    assert (scores.metrics, scores.rows, scores.images) == ({}, (), 6)
    (warning,) = scores.warnings
    assert f"such as painted, and are not judged; their predicted masks are in {tmp_path}/out" in warning
    written = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "out" / "painted").iterdir())]
    assert np.mean(np.stack(written) == truth) > 0.99


def test_a_frame_that_turns_out_to_be_damaged_leaves_its_video_out(tmp_path):
    write_layout(tmp_path / "davis", tmp_path / "masks")
    path = tmp_path / "davis" / "JPEGImages" / "480p" / "made0" / "00003.jpg"
    settings = VideoConfig(root=str(tmp_path / "davis"), short_side=32, side_multiple=16, radius=2, limit=2)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\xff\xda") + 14])  # its header is whole
    with pytest.raises(UserError, match=r"frame .*made0/00003\.jpg cannot be read"):
        evaluate(_Colours(), settings, batch_size=2)
    scores = evaluate(_Colours(), dataclasses.replace(settings, on_error="skip"), batch_size=2)
    assert {row["video"] for row in scores.rows} == {"made1"}
    assert "1 of 2 videos are left out, such as made0: frame " in scores.warnings[-1]
    with pytest.raises(UserError, match="all 1 videos are left out"):
        evaluate(_Colours(), dataclasses.replace(settings, on_error="skip", limit=1), batch_size=2)


def test_bad_predictions_are_refused_by_name(tmp_path):
    write_layout(tmp_path / "davis", tmp_path / "masks")
    settings = VideoConfig(root=str(tmp_path / "davis"), predictions=str(tmp_path / "masks"))
    path = tmp_path / "masks" / "made2" / "00003.png"
    with Image.open(path) as picture:
        ids = np.array(picture)
    Image.fromarray(ids + 1).save(path)
    with pytest.raises(UserError, match=r"made2/00003.png has id 2, but .* objects up to 1"):
        judge_files(settings)
    Image.fromarray(ids[:-1]).save(path)
    with pytest.raises(UserError, match=r"made2/00003.png is 90×49, its frame 90×50"):
        judge_files(settings)
    path.unlink()
    with pytest.raises(UserError, match=r"made2/00003.png is missing"):
        judge_files(settings)
    (path.parent / "00004.png").unlink()  # the last frame is not judged
    Image.fromarray(ids).save(path)
    judge_files(settings)
