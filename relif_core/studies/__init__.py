"""Grids of runs: which runs, the engines that work them off, and the display."""
