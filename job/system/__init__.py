"""What the operating system provides: processes, CPUs, memory, files and the termination message."""
