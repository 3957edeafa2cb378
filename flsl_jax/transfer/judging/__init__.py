"""What a detector or segmenter reaches: its metrics and its mistakes."""
