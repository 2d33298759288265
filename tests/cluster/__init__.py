"""Tests on a real cluster, which KUBECONFIG names (`make test-cluster`)."""
