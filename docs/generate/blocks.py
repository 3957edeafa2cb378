"""Blocks of a page that are generated, between two comments that name them."""

import re

from flsl_jax.errors import UserError


def replaced(text: str, name: str, block: str) -> str:
    """The page with `block` between `<!-- generated: NAME -->` and `<!-- end: NAME -->`, as paragraphs of their own.

    Raises:
        UserError: the page does not have these two lines, once each.
    """
    first, last = f"<!-- generated: {name} -->\n", f"<!-- end: {name} -->\n"
    pattern = re.compile(re.escape(first) + ".*?" + re.escape(last), flags=re.DOTALL)
    if text.count(first) != 1 or len(pattern.findall(text)) != 1:
        raise UserError(f"a page needs one block {name!r}: the line {first.strip()}, and below it {last.strip()}")
    return pattern.sub(lambda _: f"{first}\n{block.strip()}\n\n{last}", text)
