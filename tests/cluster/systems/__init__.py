"""Tests against the real programs of other projects, on a kind cluster. See conftest.py."""
