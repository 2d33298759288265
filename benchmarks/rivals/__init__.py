"""What a user would pick instead of this job: each module is one such program, run as a process of its own."""
