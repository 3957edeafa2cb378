"""Batches of base crops: which records a step reads, and the processes that read them."""
