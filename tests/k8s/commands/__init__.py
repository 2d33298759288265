"""Tests of k8s/commands."""
