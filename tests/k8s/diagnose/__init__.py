"""Tests of k8s/diagnose."""
