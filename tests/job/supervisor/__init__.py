"""Tests of job/supervisor."""
