"""Grids of runs over a base config: which runs, how they are done, and the page about them."""
