"""Requests to the API server, and what can go wrong with them."""
