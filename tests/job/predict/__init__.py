"""Tests of job/predict."""
