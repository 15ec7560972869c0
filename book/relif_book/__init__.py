"""What the pages of the book share: provenance, figures, tables, execution and the check for stale pages.

A page imports :class:`Page` from here, and helpers from :mod:`relif_book.figures.style` and
:mod:`relif_book.figures.tables`. Execution and building live in modules that pages never load.
"""

from relif_book.page import Page

__all__ = ["Page"]
