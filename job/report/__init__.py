"""What is computed and shown of published models."""
