"""Dimension letters and array aliases, fixed here once for the whole code.

B images in the (global) batch · N patch tokens of a view · P prefix tokens (class token, registers) · M = P + N tokens in a
block · Q queries of a view · D channels of a token · K centroids ·
H, W image height and width in pixels · h, w height and width of the token grid · V views · L blocks (depth) ·
p patch size in pixels · R rows: queries of all views and images, or tokens of all images, flattened · C image channels.

Annotations such as `Float[Array, "B N D"]` are checked at run time in the tests only, by jaxtyping's pytest hook.
"""

from jax import Array
from jaxtyping import Bool, Float, Int, Key, PRNGKeyArray, UInt8, UInt32

__all__ = ["Array", "Bool", "Float", "Int", "Key", "PRNGKeyArray", "UInt8", "UInt32"]
