"""Studies: files with a `get_study(config)` that returns variants of a base config; docs/studies.md documents their keys."""
