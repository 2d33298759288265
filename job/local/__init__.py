"""Workers on this machine, without a cluster."""
