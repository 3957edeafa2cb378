"""Numbers of images by hand."""

from flsl_jax.evaluation.batch_sizes import images_at_once
from flsl_jax.evaluation.encoder import PixelEncoder


def test_fewer_large_images_go_at_once() -> None:
    encoder = PixelEncoder(patch_size=16, image_size=224)
    assert images_at_once(encoder, size=(224, 224), batch_size=256) == 256
    assert images_at_once(encoder, size=(448, 448), batch_size=256) == 16
    assert images_at_once(encoder, size=(480, 832), batch_size=256) == 8  # 4 would do; 8 devices take one each
    assert images_at_once(encoder, size=(112, 112), batch_size=256) == 256
