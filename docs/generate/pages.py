"""Which pages are generated, and by what."""

from collections.abc import Callable
from pathlib import Path

from docs.generate import config_keys, planning, quickstart
from docs.generate.blocks import replaced

ROOT = Path(__file__).parents[2]

# Pages that are generated whole.
_WHOLE: dict[str, Callable[[], str]] = {
    "docs/config.md": config_keys.pretraining,
    "docs/transfer_config.md": config_keys.fine_tuning,
}
# Pages with generated blocks, each by its name.
_BLOCKS: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"quickstart": quickstart.summary},
    "docs/quickstart.md": {"seeds": quickstart.seeds},
    "docs/evaluation.md": {"scenes": quickstart.tokens},
    "docs/evidence.md": {"comparison": quickstart.comparison},
    "docs/planning.md": {"costs": planning.costs, "times": planning.times, "learning rates": planning.learning_rates},
}

PAGES = (*_WHOLE, *_BLOCKS)


def rendered(page: str) -> str:
    """What a page should be, by its path in the repository."""
    if page in _WHOLE:
        return _WHOLE[page]()
    text = (ROOT / page).read_text()
    for name, block in _BLOCKS[page].items():
        text = replaced(text, name, block())
    return text
