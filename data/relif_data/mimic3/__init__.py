"""MIMIC-III: raw tables, or the folders that the public benchmark makes of them, to clinical tensors.

``prepare`` is the way in. ``preparation`` reads raw tables, ``benchmark_folders`` the benchmark's own output,
and ``effects`` counts what each repair changes.
"""

from relif_data.mimic3.preparation import prepare

__all__ = ["prepare"]
