"""Tests of k8s/view."""
