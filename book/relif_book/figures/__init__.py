"""Figures and tables of the pages, in one style."""
