"""How images are normalised where nothing else is said."""

# Mean and standard deviation of ImageNet's channels (red, green, blue), as shares of the range from black to white.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
