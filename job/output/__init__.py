"""The output volume: runs, checkpoints, published models and `latest`."""
