"""Videos in the DAVIS layout and films of scenes; what is wrong with files is said in one line."""

import numpy as np
import pytest
from PIL import Image

from flsl_jax.config import VideoConfig
from flsl_jax.data.sources.scenes import Scenes
from flsl_jax.data.truth.videos import davis_palette, judged_frames, open_videos, read_mask, write_masks
from flsl_jax.errors import UserError
from tests.davis_layout import SHAPES, write_layout
from tests.shared_data import shared_data


@pytest.fixture
def root(tmp_path):
    write_layout(tmp_path / "davis", tmp_path / "masks")
    return tmp_path / "davis"


def test_videos_are_read_as_they_were_written(tmp_path):
    written = write_layout(tmp_path / "davis", tmp_path / "masks")
    videos = open_videos(VideoConfig(root=str(tmp_path / "davis")))
    assert [video.name for video in videos] == list(written)
    for video, (height, width, frames, _) in zip(videos, SHAPES):
        assert (video.height, video.width, len(video.frames)) == (height, width, frames)
        assert video.image(frames - 1).shape == (height, width, 3)
        truth = written[video.name][0]
        for index in range(frames):
            np.testing.assert_array_equal(video.mask(index), np.where(truth[index] == 255, 0, truth[index]))
    assert len(open_videos(VideoConfig(root=str(tmp_path / "davis"), limit=2))) == 2


def test_films_of_scenes():
    videos = open_videos(VideoConfig(name="scenes", count=3, scene_size=32, split="test", frames=4, limit=2))
    film = Scenes(count=3, size=32, split="test").sequence(1, frames=4)
    assert [video.name for video in videos] == ["test-000000", "test-000001"]
    np.testing.assert_array_equal(videos.videos[1].image(3), film.images[3])
    np.testing.assert_array_equal(videos.videos[1].mask(3), film.instances[3])


def test_masks_are_written_with_the_palette_of_davis(tmp_path):
    masks = np.random.default_rng(0).integers(0, 4, (3, 10, 14), dtype=np.uint8)
    for _ in range(2):  # a second time they replace the first
        write_masks(tmp_path / "out" / "swan", masks, frames=["00000", "00001", "00007"])
    files = sorted((tmp_path / "out").rglob("*"))
    assert [file.name for file in files] == ["swan", "00000.png", "00001.png", "00007.png"]
    with Image.open(files[-1]) as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), masks[2])
        colours = np.array(picture.getpalette()).reshape(-1, 3)
    np.testing.assert_array_equal(colours[:4], [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]])
    np.testing.assert_array_equal(read_mask(files[-1]), masks[2])


def test_the_palette_is_that_of_the_real_masks():
    path = shared_data("davis-mini") / "Annotations_2obj_first_frame" / "480p" / "bmx-trees" / "00000.png"
    with Image.open(path) as picture:
        np.testing.assert_array_equal(davis_palette(), np.array(picture.getpalette()).reshape(-1, 3))


def _remove(path):
    path.unlink()


def _resize(path):
    with Image.open(path) as picture:
        picture.resize((20, 20)).save(path)


def _damage(path):
    path.write_bytes(b"not an image")


def _colour(path):
    with Image.open(path) as picture:
        picture.convert("RGB").save(path)


@pytest.mark.parametrize(
    ("harm", "file", "message"),
    [
        (_remove, "JPEGImages/480p/made0/00004.jpg", "mask .*made0/00004.png has no frame"),
        (_remove, "JPEGImages/480p/made0/00008.jpg", "mask .*made0/00008.png has no frame"),
        (_remove, "Annotations/480p/made0/00000.png", "mask .*made0/00000.png is missing; the first frame needs one"),
        (_resize, "Annotations/480p/made1/00002.png", "mask .*00002.png is 20×20, its frame 36×57"),
        (_resize, "JPEGImages/480p/made1/00002.jpg", "frame .*00002.jpg is 20×20, the first in .* 36×57"),
        (_damage, "Annotations/480p/made2/00001.png", "made2/00001.png cannot be read"),
        (_colour, "Annotations/480p/made2/00001.png", "made2/00001.png has pixels of mode RGB"),
        (_remove, "ImageSets/2017/val.txt", 'val.txt cannot be read .*split "val"'),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(root, harm, file, message):
    harm(root / file)
    with pytest.raises(UserError, match=message) as caught:
        open_videos(VideoConfig(root=str(root)))
    assert "\n" not in str(caught.value)


def _rename(root, video, name):
    """Gives the frames of a video other names, in the order of the present ones; `name`: of a number."""
    for folder in ("JPEGImages", "Annotations"):
        for number, path in enumerate(sorted((root / folder / "480p" / video).iterdir())):
            path.rename(path.with_name(f"{name(number)}{path.suffix}"))


@pytest.mark.parametrize(
    "name",
    ["frame-{}".format, "{} of 12.v2".format, lambda number: f"{5 * number:03d}", lambda number: chr(97 + number)],
)
def test_frames_of_any_names_are_in_the_order_of_their_numbers(tmp_path, name):
    truth, _ = write_layout(tmp_path / "davis", tmp_path / "masks")["made1"]
    _rename(tmp_path / "davis", "made1", name)
    (tmp_path / "davis" / "JPEGImages" / "480p" / "made1" / "._x.jpg").write_bytes(b"left by a Mac")
    video = open_videos(VideoConfig(root=str(tmp_path / "davis"), limit=2)).videos[1]
    assert video.frames == tuple(map(name, range(12)))
    assert (video.annotated, video.gap) == (tuple(range(12)), "")
    for index in (2, 9, 10, 11):
        np.testing.assert_array_equal(video.ids(index), truth[index])


def test_frames_of_one_name_are_refused_and_gaps_are_known(root):
    folder = root / "JPEGImages" / "480p" / "made0"
    (folder / "00003.png").write_bytes((folder / "00003.jpg").read_bytes())
    with pytest.raises(UserError, match=r"two frames are named 00003 \(00003.jpg, 00003.png\)"):
        open_videos(VideoConfig(root=str(root)))
    for path in (folder / "00003.png", folder / "00003.jpg", root / "Annotations" / "480p" / "made0" / "00003.png"):
        path.unlink()
    assert open_videos(VideoConfig(root=str(root), limit=1)).videos[0].gap == "00003"


@pytest.mark.parametrize(("kept", "judged"), [((0, 4, 8), (4, 8)), ((0,), ()), ((0, 8), (8,)), (range(9), range(1, 8))])
def test_frames_with_masks_are_judged_but_the_first(root, kept, judged):
    for path in (root / "Annotations" / "480p" / "made0").iterdir():
        if int(path.stem) not in kept:
            path.unlink()
    video = open_videos(VideoConfig(root=str(root), limit=1)).videos[0]
    assert (video.annotated, judged_frames(video)) == (tuple(kept), tuple(judged))


def test_names_of_videos_may_have_spaces(root):
    for folder in ("JPEGImages", "Annotations"):
        (root / folder / "480p" / "made0").rename(root / folder / "480p" / "made 0")
    (root / "ImageSets" / "2017" / "val.txt").write_bytes(b"\xef\xbb\xbfmade 0\r\n\r\nmade1\r\n")
    assert [video.name for video in open_videos(VideoConfig(root=str(root)))] == ["made 0", "made1"]


def test_videos_that_cannot_be_used_are_left_out_where_that_is_asked_for(root, caplog):
    _damage(root / "Annotations" / "480p" / "made2" / "00001.png")
    (root / "ImageSets" / "2017" / "val.txt").write_text("made1\nmade2\nnowhere\nmade3\n")
    videos = open_videos(VideoConfig(root=str(root), on_error="skip"))
    assert [video.name for video in videos] == ["made1", "made3"]
    assert list(videos.left_out) == ["made2", "nowhere"]
    assert "left out: " in caplog.text
    assert "00001.png cannot be read" in videos.left_out["made2"]
    (root / "ImageSets" / "2017" / "val.txt").write_text("nowhere\nmade2\n")
    with pytest.raises(UserError, match=r"all 2 videos are left out, the first because: .*nowhere holds no frames"):
        open_videos(VideoConfig(root=str(root), on_error="skip"))


def test_videos_that_cannot_be_judged_are_refused(root):
    for folder in ("JPEGImages", "Annotations"):
        for path in (root / folder / "480p" / "made5").iterdir():
            if path.stem == "00002":
                path.unlink()
    with pytest.raises(UserError, match="video made5 has 2 frames"):
        open_videos(VideoConfig(root=str(root)))
    Image.fromarray(np.zeros((40, 61), np.uint8)).save(root / "Annotations" / "480p" / "made0" / "00000.png")
    with pytest.raises(UserError, match="video made0: the mask of its first frame has no object"):
        open_videos(VideoConfig(root=str(root), limit=1))
    with pytest.raises(UserError, match="root of the video task is empty"):
        open_videos(VideoConfig())
    (root / "ImageSets" / "2017" / "val.txt").write_text("nowhere\n")
    with pytest.raises(UserError, match="480p/nowhere holds no frames"):
        open_videos(VideoConfig(root=str(root)))
