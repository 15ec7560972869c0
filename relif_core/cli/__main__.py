"""``python -m relif_core.cli`` is ``relif``."""

from relif_core.cli import main

main()
