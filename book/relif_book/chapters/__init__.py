"""Computations that single pages need."""
