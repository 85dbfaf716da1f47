"""Analyses of the data and of what a model learned."""
