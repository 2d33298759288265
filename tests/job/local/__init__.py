"""Tests of job/local."""
