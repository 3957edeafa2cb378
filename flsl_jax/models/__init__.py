"""Networks: a ViT without class token and the projection head, as Flax NNX modules that know no data."""
