"""The matrix product of this machine, and what is said of others."""

import pytest

from flsl_jax.doctor.speed import Speed, judge, measure

H100 = "NVIDIA H100 80GB HBM3"


def test_this_machine_multiplies_right_and_at_some_speed():
    speed = measure(seconds=0.05)
    assert (speed.kind, speed.dtype, speed.wrong) == ("cpu", "float32", [])
    assert len(speed.flops) == 1, "the fake devices of the tests share their cores"
    assert speed.total > 1e8
    finding = judge(speed)
    assert finding.colour == "green"
    assert "no peak is known of cpu" in finding.found


@pytest.mark.parametrize(
    ("flops", "colour", "found"),
    [
        ([7e14], "green", "700.0 TFLOP/s in bfloat16 matrix products, 71% of the peak of 989.0 TFLOP/s"),
        (
            [7e14, 1e14],
            "yellow",
            "100.0 TFLOP/s each in bfloat16 matrix products, 10% of the peak of 989.0 TFLOP/s; device 1",
        ),
    ],
)
def test_the_slowest_device_is_compared_with_the_peak(flops, colour, found):
    finding = judge(Speed(kind=H100, dtype="bfloat16", flops=flops, wrong=()))
    assert finding.colour == colour
    assert finding.found.startswith(found)


def test_a_device_that_multiplies_wrongly_is_red():
    finding = judge(Speed(kind=H100, dtype="bfloat16", flops=[7e14, 7e14], wrong=[1]))
    assert finding.colour == "red"
    assert finding.found == "device 1 multiplies whole numbers wrongly"
