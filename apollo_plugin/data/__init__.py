"""Training and test material: codecs, synthetic songs."""
