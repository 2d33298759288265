"""Flags and manifests made into the objects to send."""
