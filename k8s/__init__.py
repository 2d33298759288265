"""The launcher: submits the job to Kubernetes, then watches, explains, schedules and fetches. Needs no TensorFlow."""
