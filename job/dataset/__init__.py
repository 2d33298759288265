"""Datasets: prepared once, loaded and verified by every worker."""
