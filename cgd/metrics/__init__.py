"""How a prediction is scored, what it must beat and how high it could come."""
