"""Training on this machine, without a cluster: the workers and what a terminal shows."""
