"""How good samples are: distances between sets of images in a feature space."""
