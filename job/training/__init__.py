"""Training itself: everything that imports TensorFlow."""
