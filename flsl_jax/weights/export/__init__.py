"""Writing weight files for other frameworks: names, layout, metadata, a comparison and code to copy."""
