"""Training recipes. Each file's docstring says how to run it, how long it takes and what to expect."""
