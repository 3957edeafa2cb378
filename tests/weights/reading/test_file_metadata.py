"""What a file says about itself: values that nothing can be computed with are one line, wherever they stand."""

import json

import pytest
from safetensors.numpy import save_file

from flsl_jax.errors import UserError
from flsl_jax.weights.load import load_network
from tests.weights import published
from tests.weights.published import random_state

OURS = {"num_heads": 4, "norm_eps": 1e-6, "grid": [4, 4], "pos_resize": "bicubic"}


@pytest.mark.parametrize(
    ("architecture", "others", "message"),
    [
        ({"num_heads": -4}, {}, "num_heads is -4; expected a number above 0"),
        ({"norm_eps": 0}, {}, "norm_eps is 0.0"),
        ({"norm_eps": float("nan")}, {}, "norm_eps is nan"),
        ({"grid": [0, 4]}, {}, r"grid is \(0, 4\)"),
        ({"grid": 1e400}, {}, "OverflowError"),
        ({"pos_resize": "lanczos"}, {}, "pos_resize is 'lanczos'"),
        ({}, {"std": "[0.2, 0, 0.2]"}, r"std\[1\] is 0.0"),
        ({}, {"mean": "[NaN, 0, 0]"}, "mean is "),
        ({}, {"window": "[5, 5]"}, r"window is \[5, 5\]"),
        ({}, {"architecture": "[" * 100_000}, "RecursionError"),
    ],
)
def test_our_own_metadata_with_wrong_values(tmp_path, architecture, others, message):
    texts = {"layout": "timm", "mean": "[0.5, 0.5, 0.5]", "std": "[0.5, 0.5, 0.5]"}
    texts |= {"architecture": json.dumps(OURS | architecture)} | others
    save_file(random_state(published.MAE_ENCODER), tmp_path / "x.safetensors", metadata=texts)
    with pytest.raises(UserError, match=rf"x.safetensors: its metadata cannot be understood .*{message}") as caught:
        load_network(tmp_path / "x.safetensors")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "config",
    [
        {"pretrained_cfg": {}, "model_args": {"num_heads": "many"}},
        {"pretrained_cfg": {}, "model_args": None},
        {"pretrained_cfg": None},
        {"pretrained_cfg": {"std": [1, -1, 1]}},
        {"model_type": "vit", "patch_size": 8, "image_size": 4},
        {"model_type": "vit", "patch_size": []},
        {"model_type": "dinov3_vit", "rope_theta": -1},
    ],
)
def test_a_config_of_other_code_with_wrong_values(tmp_path, config):
    save_file(random_state(published.MAE_ENCODER), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json cannot be understood") as caught:
        load_network(tmp_path)
    assert len(str(caught.value).splitlines()) == 1
