"""Kernel ridge regression over genes: with every penalty at once, and given any part of a sequence."""
