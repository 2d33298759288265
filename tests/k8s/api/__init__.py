"""Tests of k8s/api."""
