"""Pictures of digits, and what a model reads in them."""
