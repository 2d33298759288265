"""Tests of what runs in a pod, and locally; no cluster needed."""
