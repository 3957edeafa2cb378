"""What the objective's functions refuse, called as a user calls them: without the types that are checked in tests."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from flsl_jax import objective

WEIGHTS = {objective.weight_key(name): 1.0 for name in objective.TERMS}


@pytest.fixture(autouse=True)
def _without_types():
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def ones(*shape):
    return jnp.ones(shape, jnp.float32)


def probs(*shape):
    return ones(*shape) / shape[-1]


def whole(**changes):
    """`flsl_loss` of 10 queries of 4 channels and 3 centroids."""
    given = {
        "queries": ones(10, 4),
        "modes": ones(10, 4),
        "student_logits": ones(10, 3),
        "teacher_probs": probs(10, 3),
        "student_temp": 0.1,
        **WEIGHTS,
    }
    return objective.flsl_loss(**given | changes)


REFUSED = {
    "intra: 10 rows against 1": (
        lambda: objective.intra_view_loss(ones(10, 4), ones(1, 4)),
        r"queries has shape (10, 4), but modes (1, 4)",
    ),
    "intra: a vector": (lambda: objective.intra_view_loss(ones(10, 4), ones(4)), "modes (4,)"),
    "inter: [K]": (
        lambda: objective.inter_view_loss(ones(10, 3), probs(3), temp=0.1),
        "student_logits has shape (10, 3), but teacher_probs (3,); expected the same",
    ),
    "inter: [R, 1]": (
        lambda: objective.inter_view_loss(ones(10, 3), ones(10, 1), temp=0.1),
        "teacher_probs (10, 1)",
    ),
    "inter: 10 rows against 1": (lambda: objective.inter_view_loss(ones(1, 3), probs(10, 3), temp=0.1), "(1, 3)"),
    "inter: temperature 0": (
        lambda: objective.inter_view_loss(ones(10, 3), probs(10, 3), temp=0.0),
        "temp is 0.0; expected more than 0",
    ),
    "inter: temperature NaN": (lambda: objective.inter_view_loss(ones(1, 3), probs(1, 3), temp=np.nan), "temp is nan"),
    "inter: a temperature for each row": (
        lambda: objective.inter_view_loss(ones(10, 3), probs(10, 3), temp=ones(10, 1)),
        "temp has shape (10, 1); expected one number",
    ),
    "inter: temperature 0 as an array": (
        lambda: objective.inter_view_loss(ones(10, 3), probs(10, 3), temp=jnp.float32(0)),
        "temp is 0.0",
    ),
    "volume: a list": (
        lambda: objective.volume_maximization(probs(10, 3), prior=[0.2, 0.3, 0.5]),
        "prior is a list; expected an array of 3 numbers, or None",
    ),
    "volume: [1, K]": (
        lambda: objective.volume_maximization(probs(10, 3), prior=probs(1, 3)),
        "prior has shape (1, 3)",
    ),
    "volume: NaN": (
        lambda: objective.volume_maximization(probs(10, 3), prior=np.full(3, np.nan)),
        "expected a distribution",
    ),
    "loss: one mode": (lambda: whole(modes=ones(1, 4)), "queries has shape (10, 4), but modes (1, 4)"),
    "loss: [K]": (lambda: whole(teacher_probs=probs(3)), "student_logits has shape (10, 3), but teacher_probs (3,)"),
    "loss: one row of logits": (
        lambda: whole(student_logits=ones(1, 3), teacher_probs=probs(1, 3)),
        "modes (10, 4) and student_logits (1, 3) have different numbers of rows",
    ),
    "loss: temperature 0": (lambda: whole(student_temp=0.0), "student_temp is 0.0; expected more than 0"),
    "loss: a weight for each centroid": (lambda: whole(volume_weight=ones(3)), "volume_weight has shape (3,)"),
    "twin: temperature 0": (lambda: objective.dino_loss(ones(2, 4, 3), probs(2, 2, 3), temp=0.0), "temp is 0.0"),
    "twin: one row of targets": (
        lambda: objective.dino_loss(ones(2, 4, 3), probs(1, 2, 3), temp=0.1),
        "student_logits (2, 4, 3) and teacher_probs (1, 2, 3)",
    ),
    "softmax: temperature 0": (lambda: objective.softmax_targets(ones(10, 3), temp=0.0), "temp is 0.0"),
    "softmax: temperature below 0": (lambda: objective.softmax_targets(ones(10, 3), temp=-0.1), "temp is -0.1"),
    "softmax: center of length 1": (
        lambda: objective.softmax_targets(ones(10, 3), temp=0.1, center=ones(1)),
        "center has shape (1,); expected (3,), one number per centroid",
    ),
    "sinkhorn: temperature 0": (lambda: objective.sinkhorn_targets(ones(10, 3), temp=0.0), "temp is 0.0"),
    "center of length 1": (
        lambda: objective.updated_center(ones(1), ones(10, 3), momentum=0.9),
        "center has shape (1,); expected (3,)",
    ),
    "momentum above 1": (
        lambda: objective.updated_center(ones(3), ones(10, 3), momentum=1.5),
        "momentum is 1.5; expected 0 to 1",
    ),
    "mean-shift: one image's tokens": (
        lambda: objective.mean_shift(ones(2, 5, 4), ones(1, 6, 4), inv_temp=1.0),
        "must agree in all axes except the last but one",
    ),
    "mean-shift: one query": (lambda: objective.mean_shift(ones(4), ones(6, 4), inv_temp=1.0), "must agree"),
    "mean-shift: inverse temperature below 0": (
        lambda: objective.mean_shift(ones(5, 4), ones(6, 4), inv_temp=-1.0),
        "inv_temp is -1.0; expected 0 or more",
    ),
    "mean-shift: an inverse temperature for each token": (
        lambda: objective.mean_shift_weights(ones(5, 4), ones(6, 4), inv_temp=ones(6)),
        "inv_temp has shape (6,)",
    ),
    "guide: sharpness": (
        lambda: objective.guided_weights(ones(5, 4), ones(6, 4), inv_temp=1.0, sharpness=ones(6)),
        "sharpness has shape (6,)",
    ),
    "queries of another image": (
        lambda: objective.gather_tokens(ones(2, 6, 4), jnp.zeros((1, 3), jnp.int32)),
        "indices has shape (1, 3); expected (2, 3)",
    ),
    "one box for all": (
        lambda: objective.query_positions(jnp.zeros((2, 3), jnp.int32), ones(1, 4), grid=(2, 2)),
        "boxes has shape (1, 4); expected (2, 4), a box for each view",
    ),
    "positions of one view": (
        lambda: objective.sample_tokens(ones(2, 4, 8), ones(1, 3, 2), grid=(2, 2)),
        "positions has shape (1, 3, 2); expected (2, 3, 2)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_broadcast_or_divide_by_0_is_refused_in_words(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError) as refused:
        call()
    assert message in str(refused.value)


@pytest.mark.parametrize("name", [name for name in REFUSED if "temperature" not in name])
def test_shapes_are_refused_while_a_function_is_traced(name):
    with pytest.raises(ValueError):
        jax.eval_shape(REFUSED[name][0])


def test_a_traced_temperature_is_taken_as_it_is():
    traced = jax.jit(lambda temp: objective.inter_view_loss(ones(10, 3), probs(10, 3), temp=temp))
    np.testing.assert_allclose(traced(0.1), np.log(3), rtol=1e-6)
    assert np.isnan(traced(0.0))


def test_the_shapes_that_are_documented_are_accepted():
    assert np.isfinite(whole().total)
    assert np.isfinite(
        whole(prior=np.full(3, 1 / 3), student_temp=jnp.float32(0.1), volume_weight=jnp.float32(2)).total
    )
    batched = {"queries": ones(2, 5, 4), "modes": ones(2, 5, 4)}  # with rows of logits over both
    assert np.isfinite(whole(**batched).total)
    single = objective.inter_view_loss(ones(3), probs(3), temp=1.0)
    np.testing.assert_allclose(single, np.log(3), rtol=1e-6)
