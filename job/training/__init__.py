"""Training itself, with TensorFlow."""
