"""Images with objects, and the samples of them that a run trains on."""
