"""Faults of real workers, and whether the run survives them."""
