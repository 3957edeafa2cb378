"""The objective against the float64 reference and by its properties."""

import typing

import chex
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from flsl_jax import objective
from flsl_jax.config import ObjectiveConfig
from flsl_jax.config.ranges import range_of
from flsl_jax.config.run import LOSS_WEIGHT
from tests.objective import reference

WEIGHTS = (0.03, 1.0, 5.0)
# The reference knows the paper's three terms; any other of the code's counts nothing here.
ALL_WEIGHTS = {objective.weight_key(name): 0.0 for name in objective.TERMS} | dict(
    zip(("intra_weight", "inter_weight", "volume_weight"), WEIGHTS)
)
B, Q, N, D, K = 2, 3, 5, 4, 6


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    probs = rng.random((B, Q, K))
    prior = rng.random(K) + 0.1
    return {
        "queries": rng.normal(size=(B, Q, D)),
        "tokens": rng.normal(size=(B, N, D)),
        "head": rng.normal(size=(D, K)),
        "teacher_probs": probs / probs.sum(-1, keepdims=True),
        "prior": prior / prior.sum(),
    }


def ours(queries, tokens, head, teacher_probs, prior, *, inv_temp=0.7, temp=0.3, **weights):
    modes = objective.mean_shift(queries, tokens, inv_temp=inv_temp)
    return objective.flsl_loss(
        queries=queries,
        modes=modes,
        student_logits=modes @ head,
        teacher_probs=teacher_probs,
        student_temp=temp,
        prior=prior,
        **ALL_WEIGHTS,
        **weights,
    )


def theirs(queries, tokens, head, teacher_probs, prior):
    return reference.total(queries, tokens, head, teacher_probs, inv_temp=0.7, temp=0.3, prior=prior, weights=WEIGHTS)


def test_every_term_equals_the_reference_in_float64(arrays):
    with jax.enable_x64(True):
        loss = ours(**{name: jnp.asarray(value) for name, value in arrays.items()})
        assert loss.total.dtype == jnp.float64
    modes = reference.mean_shift(arrays["queries"], arrays["tokens"], 0.7)
    logits = modes @ arrays["head"]
    np.testing.assert_allclose(loss.intra, reference.intra(arrays["queries"], modes), rtol=1e-10)
    np.testing.assert_allclose(loss.inter, reference.inter(logits, arrays["teacher_probs"], 0.3), rtol=1e-10)
    np.testing.assert_allclose(loss.volume, reference.volume(logits, 0.3, arrays["prior"]), rtol=1e-10)
    np.testing.assert_allclose(loss.total, theirs(**arrays), rtol=1e-10)


@pytest.mark.parametrize("name", ["queries", "tokens", "head"])
def test_gradients_equal_central_differences_of_the_reference(arrays, name):
    with jax.enable_x64(True):
        inputs = {key: jnp.asarray(value) for key, value in arrays.items()}
        grad = jax.grad(lambda value: ours(**{**inputs, name: value}).total)(inputs[name])
    step, expected = 1e-5, np.zeros_like(arrays[name])
    for place in np.ndindex(expected.shape):
        moved = {}
        for sign in (-1, 1):
            value = arrays[name].copy()
            value[place] += sign * step
            moved[sign] = theirs(**{**arrays, name: value})
        expected[place] = (moved[1] - moved[-1]) / (2 * step)
    np.testing.assert_allclose(grad, expected, rtol=1e-6, atol=1e-9)


def test_gradients_equal_torch_autograd_in_float64(arrays):
    torch = pytest.importorskip("torch")
    with jax.enable_x64(True):
        inputs = {key: jnp.asarray(value) for key, value in arrays.items()}
        names = ("queries", "tokens", "head")
        grads = jax.grad(lambda *values: ours(**{**inputs, **dict(zip(names, values))}).total, argnums=(0, 1, 2))(
            *(inputs[name] for name in names)
        )
    queries, tokens, head = (torch.tensor(arrays[name], requires_grad=True) for name in names)
    probs, prior = torch.tensor(arrays["teacher_probs"]), torch.tensor(arrays["prior"])
    modes = torch.softmax(0.7 * queries @ tokens.transpose(1, 2), -1) @ tokens
    unit = torch.nn.functional.normalize
    log_probs = torch.log_softmax(modes @ head / 0.3, -1)
    mean = log_probs.exp().mean((0, 1))
    loss = (
        WEIGHTS[0] * (unit(queries, dim=-1) - unit(modes, dim=-1)).square().sum(-1).mean()
        + WEIGHTS[1] * -(probs * log_probs).sum(-1).mean()
        + WEIGHTS[2] * (mean * (mean.log() - prior.log())).sum()
    )
    loss.backward()
    for ours_grad, tensor in zip(grads, (queries, tokens, head)):
        np.testing.assert_allclose(ours_grad, tensor.grad.numpy(), rtol=1e-10, atol=1e-12)


def test_a_term_that_is_added_enters_the_sum_with_its_weight(arrays, monkeypatch):
    inputs = {name: jnp.asarray(value, jnp.float32) for name, value in arrays.items()}
    before = ours(**inputs)
    monkeypatch.setitem(objective.TERMS, "size", lambda given: jnp.mean(jnp.square(given.modes)))
    with pytest.raises(TypeError, match=r"expected \[.*'inter_weight', .*'size_weight'"):
        ours(**inputs)
    after = ours(**inputs, size_weight=2.0)
    assert after.terms.keys() == {*before.terms, "size"}
    np.testing.assert_allclose(after.total, before.total + 2.0 * after.terms["size"], rtol=1e-6)


def test_an_argument_that_is_no_weight_is_refused(arrays):
    inputs = {name: jnp.asarray(value, jnp.float32) for name, value in arrays.items()}
    with pytest.raises(TypeError, match="sise_weight"):
        ours(**inputs, sise_weight=2.0)


def test_every_term_has_its_weight_in_the_configuration():
    hints = typing.get_type_hints(ObjectiveConfig, include_extras=True)
    weights = {key for key, hint in hints.items() if range_of(hint) == LOSS_WEIGHT}
    assert weights == {objective.weight_key(name) for name in objective.TERMS}


def test_no_gradient_reaches_the_teacher(arrays):
    inputs = {name: jnp.asarray(value, jnp.float32) for name, value in arrays.items()}

    def loss(teacher_tokens, center):
        positives = objective.mean_shift(inputs["queries"], teacher_tokens, inv_temp=0.7)
        probs = objective.softmax_targets(positives @ inputs["head"], temp=0.05, center=center)
        return ours(**{**inputs, "teacher_probs": probs}).total

    grads = jax.grad(loss, argnums=(0, 1))(inputs["tokens"], jnp.zeros(K))
    chex.assert_trees_all_equal(grads, jax.tree.map(jnp.zeros_like, grads))


@hypothesis.settings(max_examples=20, deadline=None)
@hypothesis.given(st.integers(2, 9), st.integers(0, 2**31))
def test_the_volume_term_is_zero_at_the_prior_and_positive_elsewhere(centroids, seed):
    rng = np.random.default_rng(seed)
    prior = rng.random(centroids) + 0.05
    prior = np.asarray(prior / prior.sum(), np.float32)
    rows = np.tile(prior, (4, 1))
    assert abs(objective.volume_maximization(jnp.asarray(rows), prior=prior)) < 1e-5
    assert objective.volume_maximization(jnp.eye(centroids)[:1]) > 0.5


def test_a_uniform_prior_is_negative_entropy_plus_log_k():
    probs = jnp.asarray([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    mean = np.asarray(probs).mean(0)
    expected = np.sum(mean * np.log(mean)) + np.log(3)
    np.testing.assert_allclose(objective.volume_maximization(probs), expected, rtol=1e-5)
    uniform = np.full(3, 1 / 3, np.float32)
    np.testing.assert_allclose(objective.volume_maximization(probs, prior=uniform), expected, rtol=1e-5)


def cosines_that_leave_a_centroid_empty(rows=40, centroids=12):
    """Cosines, of which centroid 3 always has -1 and centroid 0 always 1."""
    cosines = np.random.default_rng(0).uniform(-1, 1, (rows, centroids))
    cosines[:, 3], cosines[:, 0] = -1, 1
    return cosines


def volume_of_logits(logits, prior=None, weight=1.0):
    return weight * objective.volume_maximization(jax.nn.softmax(logits, axis=-1), prior=prior)


UNEVEN = np.arange(1, 13) / 78
EXCLUDING = np.where(np.arange(12) == 3, 0, 1) / 11


@pytest.mark.parametrize("scale", [1 / 0.02, 5 / 0.1, 12 / 0.1], ids=["student_temp 0.02", "gain 5", "gain 12"])
@pytest.mark.parametrize("prior", [None, UNEVEN, EXCLUDING], ids=["uniform", "uneven", "without centroid 3"])
def test_a_mean_probability_that_underflows_leaves_the_gradient_that_float64_gives(scale, prior):
    cosines = scale * cosines_that_leave_a_centroid_empty()
    if prior is EXCLUDING:
        cosines[:, 3] = -1e4  # 0 in float64 too
    narrow = jnp.asarray(cosines, jnp.float32)
    assert jax.nn.softmax(narrow).mean(axis=0)[3] == 0
    value, grad = jax.value_and_grad(volume_of_logits)(narrow, prior=prior, weight=5.0)
    with jax.enable_x64(True):
        wide, wide_grad = jax.value_and_grad(volume_of_logits)(jnp.asarray(cosines), prior=prior, weight=5.0)
    assert np.isfinite(wide_grad).all()
    np.testing.assert_allclose(value, wide, rtol=1e-6)
    np.testing.assert_allclose(grad, wide_grad, atol=1e-6 * np.abs(wide_grad).max() + 1e-7)
    np.testing.assert_array_equal(grad[:, 3], 0)


def test_by_its_probabilities_an_empty_centroid_has_a_steep_but_finite_gradient():
    grad = jax.grad(objective.volume_maximization)(jnp.asarray([[0.5, 0.5, 0.0]]))
    assert -90 < float(grad[0, 2]) < -80
    np.testing.assert_allclose(grad[0, :2], np.log(0.5) + 1, rtol=1e-6)


def test_rows_on_eight_devices_have_the_gradient_of_one_with_an_empty_centroid():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    logits = jnp.asarray(50 * cosines_that_leave_a_centroid_empty(), jnp.float32)
    expected = jax.value_and_grad(volume_of_logits)(logits)
    spread = jax.jit(jax.value_and_grad(volume_of_logits), in_shardings=rows)(jax.device_put(logits, rows))
    assert len(spread[1].sharding.device_set) == 8
    chex.assert_trees_all_close(spread, expected, rtol=1e-5, atol=1e-7)


def test_ordinary_values_are_those_of_x_log_x_to_the_bit():
    logits = jnp.asarray(10 * np.random.default_rng(1).uniform(-1, 1, (49, 64)), jnp.float32)
    prior = np.asarray(np.arange(1, 65) / np.arange(1, 65).sum(), np.float32)

    def plain(logits, prior=None):
        mean = jnp.mean(jax.nn.softmax(logits, axis=-1), axis=0)
        entropy = jnp.sum(jax.scipy.special.xlogy(mean, mean))
        if prior is None:
            return entropy + np.log(64)
        return entropy - jnp.sum(jax.scipy.special.xlogy(mean, jnp.asarray(prior)))

    for given in (None, prior):
        ours, theirs = (jax.value_and_grad(f)(logits, prior=given) for f in (volume_of_logits, plain))
        chex.assert_trees_all_equal(ours, theirs)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (np.ones(4) / 4, "one number per centroid"),
        (np.ones(3), "expected a distribution"),
        (np.array([2, -0.5, -0.5]), "distribution"),
    ],
)
def test_a_bad_prior_is_refused(prior, message):
    with pytest.raises(ValueError, match=message):
        objective.volume_maximization(jnp.ones((2, 3)) / 3, prior=np.asarray(prior, np.float32))


def test_the_mean_over_the_batch_does_not_depend_on_its_order(arrays):
    inputs = {name: jnp.asarray(value, jnp.float32) for name, value in arrays.items()}
    turned = {
        name: value[::-1] if name in ("queries", "tokens", "teacher_probs") else value for name, value in inputs.items()
    }
    chex.assert_trees_all_close(ours(**turned), ours(**inputs), rtol=1e-5)


def test_low_precision_is_computed_in_float32(arrays):
    narrow = {name: jnp.asarray(value, jnp.bfloat16) for name, value in arrays.items() if name != "head"}
    wide = {name: value.astype(jnp.float32) for name, value in narrow.items()}
    head = jnp.asarray(arrays["head"], jnp.float32)
    chex.assert_trees_all_close(
        ours(**narrow | {"head": head, "prior": None}), ours(**wide | {"head": head, "prior": None})
    )


def test_the_intra_term_has_no_nan_gradient_at_the_zero_vector():
    grad = jax.grad(lambda z: objective.intra_view_loss(z, jnp.ones((1, 2, 4))))(jnp.zeros((1, 2, 4)))
    chex.assert_tree_all_finite(grad)
