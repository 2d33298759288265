"""Tests of k8s/checks."""
