"""Tests of k8s/render."""
