"""Data sets as training problems: what the loop asks of them, clinical and dense."""
