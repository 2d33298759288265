"""What runs where you type: submits the job to Kubernetes, watches, explains, schedules and fetches. No TensorFlow."""
