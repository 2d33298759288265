"""How the workers of a run meet before they train."""
