"""One image file: found, and brought to levels, in any format that is read."""
