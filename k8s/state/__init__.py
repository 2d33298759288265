"""What the cluster shows of runs and schedules."""
