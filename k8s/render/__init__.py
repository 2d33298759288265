"""Flags and manifests become the objects to send."""
