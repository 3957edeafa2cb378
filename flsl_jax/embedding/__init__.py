"""Features of many images as files that other programs read: in shards, one after another, and resumable."""
