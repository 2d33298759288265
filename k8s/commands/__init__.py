"""The launcher's commands, one module each."""
