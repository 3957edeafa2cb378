"""Evaluations of frozen features: `protocols` has one file for each, this folder what they share."""
