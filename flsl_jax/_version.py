"""The version of the package, read by whatever writes it into a file."""

__version__ = "0.1.0"
