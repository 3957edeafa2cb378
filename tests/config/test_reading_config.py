"""What somebody tells of a weight file in Python: wrong kinds of values are one line."""

from typing import Any

import pytest

from flsl_jax.config import check_reading
from flsl_jax.errors import UserError

RIGHT = {"network": "student", "prefix": None, "source": "timm", "num_heads": 0}


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"network": "techer"}, "network is 'techer'; expected 'teacher' or 'student'"),
        ({"network": None}, "network is None"),
        ({"num_heads": -4}, "num_heads is -4; expected a whole number of heads"),
        ({"num_heads": "4"}, "num_heads is '4'"),
        ({"num_heads": 4.0}, "num_heads is 4.0"),
        ({"num_heads": True}, "num_heads is True"),
        ({"prefix": 5}, "prefix is 5; expected a text"),
        ({"source": b"timm"}, "source is b'timm'; expected a text"),
    ],
)
def test_a_value_of_a_wrong_kind_is_one_line(told: dict[str, Any], message: str) -> None:
    check_reading(**RIGHT)
    with pytest.raises(UserError, match=message):
        check_reading(**RIGHT | told)
