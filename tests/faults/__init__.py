"""Faults: real workers, killed for real, and what becomes of the run."""
