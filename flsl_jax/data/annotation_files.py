"""JSON files that come from anywhere: read with any byte-order mark, and refused in one way whatever is wrong with them."""

import json
from pathlib import Path
from typing import Any


def load_json(path: Path) -> Any:
    """The content of a JSON file in UTF-8, UTF-16 or UTF-32, with a byte-order mark or without.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON, or is nested too deeply to be anybody's annotations.
    """
    try:
        return json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
