"""The FLSL objective as pure functions on arrays."""
