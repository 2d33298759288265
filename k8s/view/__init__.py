"""What the launcher prints."""
