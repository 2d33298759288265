"""The checks before a submission."""
