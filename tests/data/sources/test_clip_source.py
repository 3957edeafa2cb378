"""Frames of video files: each equals what a decoder gives that reads the file from its beginning."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest

from flsl_jax.config import SourceConfig
from flsl_jax.data.images.decode import DecodeError
from flsl_jax.data.loading.pipeline import Loader
from flsl_jax.data.sources.clip_source import ClipSource
from flsl_jax.data.sources.opening import open_any, open_source
from flsl_jax.data.sources.packing import pack
from flsl_jax.data.sources.shards import ShardSource
from flsl_jax.errors import UserError

av = pytest.importorskip("av")

# Container, codec, options: groups of pictures with frames that refer to later ones, also across groups; frames that are
# hidden; a stream that cannot be searched exactly.
KINDS = {
    "mp4": ("libx264", {"g": "12", "bf": "2"}),
    "mkv": ("libx264", {"g": "12", "bf": "3", "x264-params": "open-gop=1"}),
    "webm": ("libvpx", {"g": "15", "auto-alt-ref": "1", "lag-in-frames": "16"}),
    "ts": ("libx264", {"g": "12", "bf": "2"}),
    "avi": ("mpeg4", {"g": "10", "bf": "2"}),
}


def pictures(count, *, seed=0):
    """Frames of 48 × 64 in coarse squares, no two alike."""
    levels = np.random.default_rng(seed).integers(0, 256, (count, 6, 8, 3), dtype=np.uint8)
    return levels.repeat(8, axis=1).repeat(8, axis=2)


def write_clip(path, frames, *, codec="libx264", options=None, times=None, rotation=0):
    """`times`: of the frames in milliseconds; None: 25 a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {"g": "12"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        unit = Fraction(1, 25) if times is None else Fraction(1, 1000)
        stream.codec_context.time_base = unit
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = int(number if times is None else times[number]), unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def from_the_beginning(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("kind", KINDS)
def test_any_order_of_reading_gives_the_same_frames(kind, tmp_path):
    codec, options = KINDS[kind]
    path = write_clip(tmp_path / f"clip.{kind}", pictures(50), codec=codec, options=options)
    expected, source = from_the_beginning(path), ClipSource(str(path))
    assert len(source) == len(expected) == 50
    order = np.random.default_rng(1).permutation(50).tolist()
    for index in [*order, 49, 0, *range(20, 26)]:
        np.testing.assert_array_equal(source[index].image, expected[index])
    copy = pickle.loads(pickle.dumps(source))
    with ThreadPoolExecutor(4) as threads:
        for index, record in enumerate(threads.map(copy.__getitem__, range(50))):
            np.testing.assert_array_equal(record.image, expected[index])
            assert record.name == f"clip.{kind}/{index:06d}"
    assert np.abs(expected[30].astype(int) - pictures(50)[30]).mean() < 20  # it is the picture that was written


def test_frames_at_any_times_are_told_apart_and_counted(tmp_path):
    times = np.cumsum(np.random.default_rng(0).integers(5, 400, 30))
    path = write_clip(tmp_path / "phone.mkv", pictures(30), times=times, options={"g": "9", "bf": "2"})
    expected = from_the_beginning(path)
    source = open_source(SourceConfig(name="video", root=str(path), frame_stride=7))
    assert [source.path(index)[-6:] for index in range(len(source))] == [
        "000000",
        "000007",
        "000014",
        "000021",
        "000028",
    ]
    for index in (4, 1, 3, 0, 2):
        np.testing.assert_array_equal(source[index].image, expected[7 * index])
    assert source.digest != ClipSource(str(path)).digest
    (tmp_path / "moved").mkdir()
    moved = ClipSource(str(path.rename(tmp_path / "moved" / path.name)), frame_stride=7)
    assert moved.digest == source.digest


def test_turned_clips_are_upright(tmp_path):
    path = write_clip(tmp_path / "phone.mp4", pictures(2), rotation=90)
    np.testing.assert_array_equal(ClipSource(str(path))[1].image, np.rot90(from_the_beginning(path)[1]))


def test_one_frame_is_a_clip(tmp_path):
    source = ClipSource(str(write_clip(tmp_path / "still.mp4", pictures(1))))
    assert (len(source), source[0].image.shape) == (1, (48, 64, 3))


def test_folders_of_clips_have_classes_and_broken_ones_are_named(tmp_path):
    for number, name in enumerate(("cat/a.mp4", "cat/b.MKV", "dog/a.mp4")):
        write_clip(tmp_path / "clips" / name, pictures(4, seed=number))
    whole = (tmp_path / "clips" / "cat" / "a.mp4").read_bytes()
    (tmp_path / "clips" / "cat" / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "clips" / "dog" / "text.mov").write_text("no video")
    (tmp_path / "clips" / "dog" / "empty.avi").touch()
    (tmp_path / "clips" / "dog" / "gone.avi").symlink_to(tmp_path / "nowhere")
    (tmp_path / "clips" / "dog" / "._a.mp4").touch()
    with av.open(str(tmp_path / "clips" / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 8000
        container.mux([*stream.encode(silence), *stream.encode()])
    source = open_any(str(tmp_path / "clips"))
    assert [source.path(index) for index in (0, 3, 4, 11)] == [
        "cat/a.mp4/000000", "cat/a.mp4/000003", "cat/b.MKV/000000", "dog/a.mp4/000003",
    ]  # fmt: skip
    assert [source.class_names[source[index].label] for index in (3, 4, 8)] == ["cat", "cat", "dog"]
    assert str(source.listing).startswith("images: 8 MP4 frames, 4 MKV frames; passed over: cat/cut.mp4 (")
    assert [name for name, _ in source.listing.unusable] == [
        "cat/cut.mp4", "dog/empty.avi", "dog/gone.avi", "dog/text.mov", "sound.mp4",
    ]  # fmt: skip
    assert dict(source.listing.unusable)["dog/gone.avi"] == "a link to nothing"
    with pytest.raises(UserError, match=r"cat/cut\.mp4 cannot be read .*; 5 of 8 such\); repair .* on_corrupt=replace"):
        open_source(SourceConfig(name="video", root=str(tmp_path / "clips"), on_corrupt="fail"))
    with pytest.raises(UserError, match=r"text\.mov cannot be read .*; 1 of 1 such\); repair or remove it$"):
        open_any(str(tmp_path / "clips" / "dog" / "text.mov"))
    assert len(open_source(SourceConfig(root=str(tmp_path / "clips")))) == len(source)
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="holds no video"):
        ClipSource(str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"nowhere cannot be read .*; name a video, or a folder of them"):
        ClipSource(str(tmp_path / "nowhere"))


def test_a_damaged_place_is_a_damaged_record_and_the_rest_is_whole(tmp_path):
    path = write_clip(tmp_path / "clip.ts", pictures(60), codec="mpeg2video", options={"g": "10"})
    source, expected = ClipSource(str(path)), from_the_beginning(path)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    fresh = pickle.loads(pickle.dumps(source))
    with pytest.raises(DecodeError, match=r"clip\.ts: .*cannot be decoded"):
        fresh[59]
    np.testing.assert_array_equal(fresh[11].image, expected[11])
    path.unlink()
    with pytest.raises(DecodeError, match="No such file"):
        pickle.loads(pickle.dumps(source))[0]


def test_training_reads_frames_by_workers_and_packing_keeps_them(tmp_path):
    write_clip(tmp_path / "a" / "1.mp4", pictures(9))
    write_clip(tmp_path / "b" / "2.mkv", pictures(9, seed=1))
    source = open_any(f"{tmp_path}/a,{tmp_path}/b", config=SourceConfig(frame_stride=2))
    assert [source[index].name for index in (0, 9)] == ["a/1.mp4/000000", "b/2.mkv/000008"]

    def images(workers, start):
        loader = Loader(
            source, batch_size=4, crop_size=16, seed=0, area=(0.5, 1.0), aspect=(0.8, 1.25), workers=workers
        )
        batches = loader.batches(start, 4 - start)
        found = [batch.images for batch in batches]
        batches.close()
        assert loader.corrupt_count == 0
        return found

    np.testing.assert_array_equal(images(1, 2), images(0, 0)[2:])
    manifest = pack(source, tmp_path / "packed", records_per_shard=4)
    assert (manifest.count, manifest.skipped) == (10, ())
    packed = ShardSource(tmp_path / "packed")
    assert [packed[index].name for index in range(10)] == [source[index].name for index in range(10)]
    assert packed[3].image[:2] == b"\xff\xd8"
