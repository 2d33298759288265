"""How the supervisors of a run meet before their trainers start, and stay in contact while they run."""
