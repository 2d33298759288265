"""Tests of job/dataset."""
