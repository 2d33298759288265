"""The first process of a worker, and the processes that it starts."""
