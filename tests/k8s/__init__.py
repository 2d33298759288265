"""Tests of k8s/, without a cluster."""
