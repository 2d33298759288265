"""Tests of k8s/volume."""
