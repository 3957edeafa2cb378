"""Products and sums of programs small enough to count by hand."""

import jax
import jax.numpy as jnp

from benchmarks import lowered


def lower(function, *arrays):
    return jax.jit(function).lower(*arrays)


def test_a_product_has_its_types_precision_and_flops():
    left, right = jnp.ones((2, 3, 4), jnp.bfloat16), jnp.ones((2, 4, 5), jnp.bfloat16)
    wide = lambda a, b: jnp.matmul(a, b, precision="highest", preferred_element_type=jnp.float32)  # noqa: E731
    (product,) = lowered.products(lower(wide, left, right))
    assert product.kind == "bf16 × bf16 → f32, highest"
    assert product.shapes == ((2, 3, 4), (2, 4, 5), (2, 3, 5))
    assert product.flops == 2 * 2 * 3 * 4 * 5
    assert "dot_general" in product.source


def test_loops_and_calls_count_as_often_as_they_run():
    @jax.jit
    def called(x):
        return x @ x

    def program(x):
        looped = jax.lax.scan(lambda carry, _: (called(carry), None), x, length=7)[0]
        return called(looped) + looped

    found = lowered.products(lower(program, jnp.ones((4, 4))))
    assert lowered.by_kind(found) == {"f32 × f32 → f32": (8, 8 * 2 * 4**3)}


def test_a_convolution_counts_its_kernel_at_every_place():
    images, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((4, 4, 3, 5))
    dims = ("NHWC", "HWIO", "NHWC")
    convolve = lambda x, k: jax.lax.conv_general_dilated(x, k, (4, 4), "VALID", dimension_numbers=dims)  # noqa: E731
    (product,) = lowered.products(lower(convolve, images, kernel))
    assert product.flops == 2 * (2 * 2 * 2 * 5) * (4 * 4 * 3)


def test_sums_have_the_type_in_which_they_add():
    narrow = lower(
        jax.grad(lambda b, x: jnp.sum((x + b).astype(jnp.float32))), jnp.ones(3, jnp.bfloat16), jnp.ones((5, 3))
    )
    assert all(one.dtype == "f32" for one in lowered.sums(lower(jnp.sum, jnp.ones((5, 3), jnp.bfloat16))))
    assert ("f32", (5, 3)) in [(one.dtype, one.before) for one in lowered.sums(narrow)]
