"""HEIC photos, as phones write them: read through Pillow by pillow-heif, an extra, imported when the first one comes."""

import importlib.util

# How listings call the format, and what reads it.
HEIC = "HEIC"
INSTALL = "`pip install pillow-heif`"
# Pillow's name of the format, once it is known there.
PILLOW_NAME = "HEIF"
_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
_AVIF = (b"avif", b"avis")
_MOST_BRANDS = 64


def is_heif(head: bytes) -> bool:
    """Whether data begin as a HEIC file does; AVIF, which lies in the same kind of container, is another format."""
    if head[4:8] != b"ftyp":
        return False
    end = min(int.from_bytes(head[:4], "big"), len(head), 16 + 4 * _MOST_BRANDS)
    brands = [head[8:12], *(head[start : start + 4] for start in range(16, end - 3, 4))]
    return brands[0] in _BRANDS and not any(brand in _AVIF for brand in brands)


def is_installed() -> bool:
    """Whether HEIC files can be read here. Nothing is imported."""
    try:
        return importlib.util.find_spec("pillow_heif") is not None
    except ValueError:  # None in its place among the modules
        return False


def register() -> None:
    """Makes the format known to Pillow.

    Raises:
        ImportError: the package is not installed, or broken; the message says what to do.
    """
    try:
        import pillow_heif
    except ImportError as error:
        raise ImportError(f"a HEIC file needs pillow-heif ({error}); {INSTALL}, or save it as JPEG") from error
    pillow_heif.register_heif_opener()
