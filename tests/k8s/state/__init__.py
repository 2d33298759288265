"""Tests of k8s/state."""
