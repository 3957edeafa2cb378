"""Generated videos in the DAVIS-2017 layout with everything that its evaluation must get right."""

import numpy as np
from PIL import Image

# Height, width, frames, objects.
SHAPES = ((40, 61, 9, 3), (57, 36, 12, 4), (50, 90, 5, 1), (33, 70, 14, 2), (130, 210, 4, 2), (41, 60, 3, 2))


def write_layout(root, predictions):
    """Writes images and masks below `root` and moved masks below `predictions`; returns {name: (truth, predicted)}.

    Objects touch each other and the image's border, are missing from truth, prediction or both in some frames and, one of
    them, from all predictions; there are void pixels, and ids that the first frame lacks.
    """
    rng, videos = np.random.default_rng(0), {}
    for number, (height, width, frames, objects) in enumerate(SHAPES):
        pairs = [_masks(rng, height, width, objects=objects, first=not frame) for frame in range(frames)]
        truth, predicted = (np.stack(masks) for masks in zip(*pairs))
        if number == 1:
            truth[1:, 0, 0] = 9
        if number == 3:
            predicted[predicted == 2] = 0
        videos[f"made{number}"] = (truth, predicted)
    for name, (truth, predicted) in videos.items():
        images = np.zeros((*truth.shape, 3), np.uint8)
        for folder, pixels, suffix in (
            (root / "JPEGImages" / "480p", images, ".jpg"),
            (root / "Annotations" / "480p", truth, ".png"),
            (predictions, predicted, ".png"),
        ):
            (folder / name).mkdir(parents=True)
            for frame, picture in enumerate(pixels):
                Image.fromarray(picture).save(folder / name / f"{frame:05d}{suffix}")
    (root / "ImageSets" / "2017").mkdir(parents=True)
    (root / "ImageSets" / "2017" / "val.txt").write_text("\n".join(videos) + "\n")
    return videos


def _masks(rng, height, width, *, objects, first):
    truth, predicted = np.zeros((2, height, width), np.uint8)
    for number in range(1, objects + 1):
        if first or rng.uniform() < 0.75:
            inside = _ellipse(rng, height, width)
            truth[inside] = number
            if rng.uniform() < 0.85:
                predicted[np.roll(inside, rng.integers(-3, 4, 2), (0, 1))] = number
        elif rng.uniform() < 0.5:
            predicted[_ellipse(rng, height, width)] = number
    if first:
        truth[: 3 * objects, :5] = np.repeat(np.arange(1, objects + 1), 3)[:, None]
    elif rng.uniform() < 0.3:
        truth[rng.integers(height - 3) :, :2] = 255
    return truth, predicted


def _ellipse(rng, height, width):
    y, x = np.mgrid[:height, :width]
    stretch, radius = rng.uniform(0.5, 2), rng.uniform(4, height / 3)
    return (y - rng.uniform(0, height)) ** 2 * stretch + (x - rng.uniform(0, width)) ** 2 / stretch < radius**2
