"""Label propagation in tiles against the whole affinity matrix in NumPy, and by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from flsl_jax.evaluation import propagation


def _follow_reference(frames, first, *, context, radius, top_k, temp):
    """Every pair of patches of the whole context at once, in float64; one frame after the other."""
    frames = frames.astype(np.float64) / np.linalg.norm(frames, axis=-1, keepdims=True)
    height, width = frames.shape[1:3]
    flat = frames.reshape(len(frames), height * width, -1)
    y, x = (axis.reshape(-1) for axis in np.mgrid[:height, :width])
    near = np.maximum(abs(y[:, None] - y), abs(x[:, None] - x)) <= (radius or max(height, width))
    known = [first.reshape(height * width, -1).astype(np.float64)]
    for time in range(1, len(frames)):
        used = [0, *range(max(1, time - context), time)] if context else [0]
        affinity = np.concatenate([near * np.exp(flat[time] @ flat[t].T / temp) for t in used], axis=1)
        smallest = np.sort(affinity, axis=1)[:, -min(top_k, affinity.shape[1])]
        affinity[affinity < smallest[:, None]] = 0
        known.append(affinity / affinity.sum(axis=1, keepdims=True) @ np.concatenate([known[t] for t in used]))
    return np.stack(known).reshape(*frames.shape[:3], -1)


def _film(seed, *, height, width, frames=7, channels=3, width_of_features=6):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((height, width, width_of_features)) + 0.5 * rng.standard_normal(
        (frames, height, width, width_of_features)
    )
    labels = np.eye(channels, dtype=np.float32)[rng.integers(channels, size=(height, width))]
    return features.astype(np.float32), labels


def _follow_all(frames, first, *, context, **parameters):
    state, found = propagation.start(jnp.asarray(frames[0]), first, context=context), [first]
    for frame in frames[1:]:
        state, labels = propagation.follow(state, jnp.asarray(frame), **parameters)
        found.append(np.asarray(labels))
    return np.stack(found)


@pytest.mark.parametrize(
    ("height", "width", "radius", "context", "top_k"),
    [
        (18, 35, 2, 3, 5),  # tiles, window inside the grid on one axis
        (13, 10, 12, 7, 5),  # the protocol's values: a window larger than the grid
        (5, 6, 0, 2, 4),  # no window; a grid smaller than a tile
        (17, 9, 1, 0, 3),  # the first frame only
        (3, 11, 1, 2, 400),  # fewer patches near than top_k
    ],
)
def test_labels_are_those_of_the_whole_affinity_matrix(height, width, radius, context, top_k):
    frames, first = _film(height, height=height, width=width)
    parameters = {"radius": radius, "top_k": top_k, "temp": 0.1}
    found = _follow_all(frames, first, context=context, **parameters)
    expected = _follow_reference(frames, first, context=context, **parameters)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-5)


def test_all_frames_of_a_video_share_one_compilation():
    frames, first = _film(0, height=8, width=8, frames=5)
    propagation.follow.clear_cache()
    _follow_all(frames, first, context=2, radius=3, top_k=5, temp=0.1)
    assert propagation.follow._cache_size() == 1


def test_equally_near_patches_all_count():
    """Four patches of one feature: with top_k of 1 each frame still holds the mean of their labels."""
    frames, first = np.ones((2, 2, 2, 3), np.float32), np.eye(2, dtype=np.float32)[[[0, 0], [0, 1]]]
    found = _follow_all(frames, first, context=1, radius=1, top_k=1, temp=0.1)
    np.testing.assert_allclose(found[1], np.broadcast_to([0.75, 0.25], (2, 2, 2)), atol=1e-6)


def test_first_labels_are_those_of_the_nearest_pixels():
    mask = np.zeros((8, 12), np.uint8)
    mask[:, 5:] = 2
    found = propagation.first_labels(mask, grid=(2, 3), channels=4)
    # The centres of patches of 4 columns are at 2, 6 and 10: pixels 2, 6 and 10.
    np.testing.assert_array_equal(found.argmax(axis=-1), [[0, 2, 2]] * 2)
    assert found.shape == (2, 3, 4)


def test_masks_of_pixels_by_hand():
    labels = np.zeros((1, 3, 3), np.float32)
    labels[0, :, 0] = [0.9, 0.8, 0.7]
    labels[0, :, 1] = [0.1, 0.2, 0.3]
    # Stretched, background falls from 1 to 0 and object 1 rises from 0 to 1, from the first patch's centre to the last's:
    # between them, at pixels 2 to 9 of 12, they are equal at pixel 5.5.
    found = np.asarray(propagation.to_pixels(labels, patch_size=4))
    np.testing.assert_array_equal(found, [[0] * 6 + [1] * 6] * 4)
    everywhere = np.zeros((2, 2, 3), np.float32)
    everywhere[..., 2] = 1.0
    assert (np.asarray(propagation.to_pixels(everywhere, patch_size=2)) == 2).all()


def test_masks_of_pixels_are_up_sampled_as_torch_does():
    torch = pytest.importorskip("torch")
    labels = np.random.default_rng(0).dirichlet(np.ones(3), (4, 5)).astype(np.float32)
    large = torch.nn.functional.interpolate(
        torch.from_numpy(labels).permute(2, 0, 1)[None], scale_factor=8, mode="bilinear", align_corners=False
    )[0]
    flat = large.flatten(1)
    low, high = flat.min(1).values[:, None, None], flat.max(1).values[:, None, None]
    expected = ((large - low) / (high - low)).argmax(0).numpy()
    found = np.asarray(propagation.to_pixels(labels, patch_size=8))
    assert (found != expected).mean() < 0.002  # rounding, where two labels are all but equal


def test_frames_are_resized_without_antialiasing():
    frame = np.random.default_rng(0).integers(0, 256, (1, 9, 12, 3), dtype=np.uint8)
    small = np.asarray(propagation.resize_frames(frame, height=3, width=4))
    # A third of the size: centres fall on the centre pixel of each 3×3.
    np.testing.assert_array_equal(small, frame[:, 1::3, 1::3])
    large = np.asarray(propagation.resize_frames(frame, height=18, width=24)).astype(float)
    inner = (0.75 * frame[0, 3, 3].astype(float) + 0.25 * frame[0, 3, 4]) * 0.75 + 0.25 * (
        0.75 * frame[0, 4, 3].astype(float) + 0.25 * frame[0, 4, 4]
    )
    assert abs(large[0, 7, 7] - inner).max() <= 0.5
