"""This job beside what a user would pick instead, timed at equal settings and equal work."""
