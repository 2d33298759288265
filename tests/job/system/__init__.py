"""Tests of job/system."""
