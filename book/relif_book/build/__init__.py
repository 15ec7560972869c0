"""Building the book: execute pages, find stale ones, render."""
