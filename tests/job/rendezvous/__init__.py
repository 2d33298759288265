"""Tests of job/rendezvous."""
