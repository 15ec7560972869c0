"""What the pages of the book share: provenance, figures, tables, execution and the check for stale pages.

A page imports :class:`Page` from here, and helpers from :mod:`relif_core.pages.figures` and
:mod:`relif_core.pages.tables`. Execution and building live in modules that pages never load.
"""

from relif_core.pages.provenance import Page

__all__ = ["Page"]
