"""Distributed training of a small TensorFlow model: what runs in a pod, and locally."""

__version__ = "0.1.0"
