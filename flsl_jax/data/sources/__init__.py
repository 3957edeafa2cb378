"""Data sets: records by their number, whatever they lie in; made by `opening.open_source`."""
