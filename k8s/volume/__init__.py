"""The output volume, reached through a short-lived pod."""
