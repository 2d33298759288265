"""Tests of job/output."""
