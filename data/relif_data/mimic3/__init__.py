"""MIMIC-III: raw tables, or the folders that the public benchmark makes of them, to clinical tensors.

``prepare`` is the way in. ``preparation`` reads raw tables, ``benchmark_folders`` the benchmark's own output,
``effects`` counts what each repair changes and ``planted`` puts known quirks into simulated tables.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from relif_data.labels import refuse_changed


def prepare(
    source: Path | str,
    target: Path | str,
    *,
    compatibility: Literal["repaired", "benchmark"] = "repaired",
    repairs: Iterable[str] | str | None = None,
    train_subjects: Path | None = None,
    validation_subjects: Path | None = None,
    test_subjects: Path | None = None,
    validation_share: float = 0.15,
    test_share: float = 0.15,
    seed: int = 0,
    output_policy: Literal["person", "aggregate"] = "aggregate",
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Turn MIMIC-III tables or the benchmark's task folders into clinical tensors at ``target``; return it.

    For tables see ``preparation.prepare_raw``; their licence file decides the output policy. The benchmark's
    folders come with values, labels and test subjects as they are: they take ``validation_share``, ``seed``
    and ``output_policy`` only (``benchmark_folders.prepare_benchmark_folder``).

    Raises:
        InputError: An option that the source does not take, or as these functions.
        DataError: As these functions.
    """
    from relif_data.mimic3.benchmark_folders import is_benchmark_folder, prepare_benchmark_folder
    from relif_data.mimic3.preparation import prepare_raw

    common: dict[str, Any] = {"validation_share": validation_share, "seed": seed, "progress": progress}
    of_tables: dict[str, Any] = {
        "compatibility": compatibility,
        "repairs": repairs,
        "train_subjects": train_subjects,
        "validation_subjects": validation_subjects,
        "test_subjects": test_subjects,
        "test_share": test_share,
    }
    of_folders: dict[str, Any] = {"output_policy": output_policy}
    if is_benchmark_folder(Path(source)):
        refuse_changed(prepare, of_tables, f"{source} holds the benchmark's task folders, which fix this")
        return prepare_benchmark_folder(Path(source), Path(target), **common, **of_folders)
    refuse_changed(prepare, of_folders, "the licence file beside raw tables decides this")
    return prepare_raw(Path(source), Path(target), **common, **of_tables)
