"""Studies published small: packed without loss, logits of some seeds, histograms, and what is refused."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from relif_book.build import records as records_of_pages
from relif_book.build.records import runs_of
from relif_book.evidence.audit_table import AuditTable, audit_record, audit_table
from relif_book.evidence.packing import RUNS, load_packed, save_packed
from relif_book.evidence.publishing import BINS, LEAST, merged, publish, read_published, read_single_task
from relif_book.evidence.result_set import result_set
from relif_book.evidence.utility_errors import (
    bootstrap_counts,
    utility_replicates,
    weighted_auroc,
    weighted_kappa,
)
from relif_core.errors import InputError, RecordError
from relif_core.record import VIEWS, Record, run_key
from relif_core.settings import (
    REVISION,
    RunSettings,
    as_json,
    dense_settings,
    method_settings,
    read_changes,
)

#: The encoder weights that NYUv2's records name.
RESNET50 = "6ef49dd7bd0163b26282010447861aa3d0d6cc0f72484813df87c8e50b9376ad"
PUBLISHED = Path(__file__).resolve().parents[3] / "data" / "records"
#: What the published records may weigh together.
MOST_BYTES = 30 * 2**20


def test_published_records_keep_their_keys() -> None:
    """A record's key is of its settings and data, whatever settings came later; no revision means 1."""
    first = 0
    for path in sorted(PUBLISHED.rglob("audits.json")):
        for record in [*read_published(path.parent)[0], *read_single_task(path.parent)]:
            assert as_json(record.settings) == record.content["settings"]
            fingerprint = record.content["dataset"]["fingerprint"]
            assert record.key in [run_key(record.settings, fingerprint, kind) for kind in ("cpu", "cuda")]
            if "revision" not in record.content["settings"]:
                assert record.settings.revision == 1
                first += 1
    assert first > 100


@pytest.mark.parametrize("folder", ["nyuv2", "synthetic_methods"])
def test_the_command_of_a_record_has_the_settings_of_its_run(folder: str) -> None:
    place = PUBLISHED / folder
    records = [*read_published(place)[0], *read_single_task(place)]
    made = {record.key: record.settings for record in records}
    rows = runs_of(folder)
    assert {row.key for row in rows} == set(made)
    for row in rows:
        assert settings_of(row.command) == replace(made[row.key], revision=REVISION)


def settings_of(command: str) -> RunSettings:
    """The settings of the run that ``relif run`` makes; the file of weights is that of NYUv2's records."""
    words = command.split()
    options = list(zip(words[2::2], words[3::2], strict=True))
    given = dict(options)
    changes = read_changes(value for name, value in options if name == "--set")
    if "--weights" not in given:
        return method_settings(given["--method"], seed=int(given["--seed"]), **changes)
    changes["model"] = {"weights": RESNET50, **changes.get("model", {})}
    return dense_settings(given["--method"], seed=int(given["--seed"]), **changes)


def test_the_command_of_a_dense_run_changes_its_own_defaults_alone() -> None:
    run = dense_settings(
        "single_depth", seed=3, model={"encoder": "resnet18"}, training={"evaluate_every": 2}
    )
    content = {
        "settings": as_json(run),
        "key": "",
        "made": {"began": "2026-11-28", "device": "cpu"},
        "dataset": {"title": "Rooms", "dataset": "rooms"},
    }
    assert records_of_pages._row(content, "rooms").command == (
        "relif run --data TENSORS --target RUN --method single_depth --seed 3"
        " --set model.encoder=resnet18 --set training.precision=float32 --set training.evaluate_every=2"
    )


def test_published_records_stay_small() -> None:
    assert sum(path.stat().st_size for path in PUBLISHED.rglob("*") if path.is_file()) <= MOST_BYTES


@pytest.fixture(scope="module")
def records(small_runs: list[Record]) -> list[Record]:
    return [with_made(record, modified=False) for record in small_runs]


def with_made(record: Record, **changes: Any) -> Record:
    return replace(record, content={**record.content, "made": {**record.content["made"], **changes}})


@pytest.fixture(scope="module")
def published(records: list[Record], tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("published") / "study"
    publish(records, target, "study", logit_seeds=1, failed=[{"method": "relif", "seed": 9, "error": "NaN"}])
    return target


def test_packing_loses_nothing(records: list[Record], tmp_path: Path) -> None:
    save_packed(records, tmp_path)
    first = (tmp_path / RUNS).read_bytes()
    assert [record.digest() for record in load_packed(tmp_path)] == [record.digest() for record in records]
    assert save_packed(records, tmp_path).read_bytes() == first
    (tmp_path / RUNS).write_bytes(first[: len(first) // 2])
    with pytest.raises(RecordError, match="cannot be read"):
        load_packed(tmp_path)


@pytest.mark.parametrize("name", [RUNS, "audits.npz", "labels.npz"])
def test_damaged_files_of_a_published_folder_are_named(published: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(published, tmp_path / "copy")
    whole = (folder / name).read_bytes()
    middle = len(whole) // 2
    for damaged in (whole[:middle], whole[: middle - 40] + bytes(80) + whole[middle + 40 :]):
        (folder / name).write_bytes(damaged)
        with pytest.raises(RecordError, match=rf"{name} cannot be read .*publish the records again"):
            read_published(folder)


def test_a_table_and_numbers_of_two_publications_are_refused(
    records: list[Record], published: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(published, tmp_path / "copy")
    publish(records[:2], tmp_path / "earlier", "study")
    shutil.copy(tmp_path / "earlier" / "audits.npz", folder)
    with pytest.raises(RecordError, match="lists 4 runs, the numbers beside it are of 2"):
        read_published(folder)


def test_a_publication_that_was_killed_is_completed(
    records: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(records[:2], tmp_path, "study")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(AuditTable, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            publish(records, tmp_path, "study")
    with pytest.raises(RecordError, match="audit table lacks records"):
        result_set("", *read_published(tmp_path))
    with pytest.raises(RecordError, match="holds 2 runs without audits; publish them again too"):
        publish(records[:2], tmp_path, "study")
    assert publish(records, tmp_path, "study").keys == [record.key for record in records]
    assert len(result_set("", *read_published(tmp_path)).records) == 4


def test_a_run_counts_as_failed_until_it_is_finished(records: list[Record], tmp_path: Path) -> None:
    lost, other = ({"method": "relif", "seed": seed, "error": "NaN"} for seed in (1, 8))
    assert publish(records[:3], tmp_path, "study", failed=[lost]).failed == [lost]
    assert publish(records[:3], tmp_path, "study", failed=[other]).failed == [lost, other]
    assert publish(records, tmp_path, "study").failed == [other]
    assert AuditTable.load(tmp_path).failed == [other]


@pytest.mark.parametrize(("first", "then"), [("study", "aggregates"), ("all", "study")])
def test_a_folder_keeps_no_personal_arrays_of_another_layout(
    records: list[Record], tmp_path: Path, first: Any, then: Any
) -> None:
    publish(records, tmp_path, first)
    with pytest.raises(RecordError, match=f"which --keep {then} would leave there"):
        publish(records, tmp_path, then)


def test_logits_are_kept_of_methods_that_exist(records: list[Record], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no method is called 'gradnrom'"):
        publish(records, tmp_path, "study", logit_methods=["erm", "gradnrom"])


def test_a_study_keeps_logits_of_some_seeds_and_histograms_else(
    records: list[Record], published: Path
) -> None:
    back, reference, table = read_published(published)
    assert [(record.key, record.content) for record in back] == [(own.key, own.content) for own in records]
    for record, own in zip(back, records, strict=True):
        assert bool(record.logits("test")) == (record.seed == 0)
        assert not record.has("", "test")
        np.testing.assert_array_equal(record.trace("weight"), own.trace("weight"))
        for view in VIEWS:
            if record.seed == 0 and not view.startswith("last"):
                for task, scores in own.scores("test", view).items():
                    np.testing.assert_allclose(record.scores("test", view)[task], scores, atol=5e-4)
                continue
            for delta in (0.0, 0.1, reference.tolerance):
                exact = audit_record(own, delta, "test", view).bias
                assert abs(record.sketch("test", view).audit(delta).bias - exact) <= 1 / BINS
    assert table.failed == [{"method": "relif", "seed": 9, "error": "NaN"}]
    labels = records[0].arrays["label/test/mortality"]
    np.testing.assert_array_equal(back[3].arrays["label/test/mortality"], labels)


def test_the_table_has_every_view(records: list[Record], published: Path) -> None:
    table = AuditTable.load(published)
    for view in ("calibrated", "last", "last_calibrated"):
        for row, record in enumerate(records):
            found = audit_record(record, table.tolerance, "test", view)
            assert getattr(table, f"{view}_bias")[row] == pytest.approx(found.bias)
            weights = np.eye(len(records))[row]
            interval = table.interval(weights, f"{view}_bias")
            np.testing.assert_allclose(interval, found.bias_interval(), atol=1e-6)
    np.testing.assert_allclose(table.calibration_effect, table.calibrated_bias - table.bias)
    own = np.array([record.result["last"]["utility"]["test"]["worst"] for record in records], dtype=float)
    np.testing.assert_array_equal(table.last_worst, own)
    with pytest.raises(RecordError, match="no errors of 'speed'"):
        table.covariance("speed")
    old = audit_table([without_views(record) for record in records], table.tolerance)
    with pytest.raises(RecordError, match="no errors of 'calibrated_bias'"):
        old.interval(np.eye(len(records))[0], "calibrated_bias")


def without_views(record: Record) -> Record:
    """The record as it was before revision 2."""
    kept = {name: array for name, array in record.arrays.items() if name.startswith(("score", "subject"))}
    result = {name: value for name, value in record.result.items() if name not in ("last", "temperatures")}
    return Record({**record.content, "result": result}, kept)


def test_closed_data_leave_merged_histograms_alone(records: list[Record], tmp_path: Path) -> None:
    closed = [
        replace(
            record,
            content={
                **record.content,
                "dataset": {**record.content["dataset"], "output_policy": "aggregate"},
            },
        )
        for record in records
    ]
    for keep in ("all", "study"):
        publish(closed, tmp_path / keep, keep)  # type: ignore[arg-type]
        assert not (tmp_path / keep / "labels.npz").exists()
        for record in read_published(tmp_path / keep)[0]:
            shown = {name.split("/")[0] for name in record.arrays}
            assert shown <= {"merged_histogram", "epoch", "trace", "calibration"}
            _, counts = record.arrays["merged_histogram/score/test/mortality"]
            assert counts.min() >= LEAST


@given(st.lists(st.integers(0, 12), min_size=1, max_size=40), st.integers(1, 15))
def test_merged_bins_hold_enough_and_all(counts: list[int], least: int) -> None:
    edges, found = merged(np.array(counts), least)
    if sum(counts) < least:
        assert not len(edges)
        return
    assert found.min() >= least
    assert found.sum() == sum(counts)
    assert edges[-1] == len(counts)
    assert (np.diff(edges) > 0).all()


REFUSED: dict[str, tuple[Callable[[list[Record]], list[Record]], str]] = {
    "modified": (
        lambda r: [with_made(r[0], modified=True), *r[1:]],
        "1 of 4 runs were made from modified sources",
    ),
    "sources": (
        lambda r: [with_made(r[0], source="other"), *r[1:]],
        "2 states of relif_core trained these runs",
    ),
    "resumed": (
        lambda r: [with_made(r[0], all_sources=["other", r[0].content["made"]["source"]]), *r[1:]],
        "2 states of relif_core",
    ),
    "data": (
        lambda r: [
            *r[:3],
            replace(
                r[3], content={**r[3].content, "dataset": {**r[3].content["dataset"], "fingerprint": "x"}}
            ),
        ],
        "are of the data ",
    ),
    "devices": (
        lambda r: [*r[:3], replace(r[3], content={**r[3].content, "key": "made on a GPU"})],
        "made on cpu, cuda",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_mislead_is_refused(records: list[Record], tmp_path: Path, name: str) -> None:
    change, message = REFUSED[name]
    with pytest.raises(RecordError, match=message):
        publish(change(records), tmp_path)
    assert not list(tmp_path.iterdir())
    if name not in ("data", "devices"):
        assert publish(change(records), tmp_path, exploratory=True).exploratory
        assert read_published(tmp_path)[2].exploratory


def test_one_tolerance_per_data_set(records: list[Record], tmp_path: Path) -> None:
    publish(records, tmp_path / "first")
    shared = tmp_path / "shared"
    shared.mkdir()
    text = (tmp_path / "first" / "reference.json").read_text()
    stated = text.replace('"tolerance": ', '"tolerance": 0.5,\n "was": ', 1).replace('"was": ', '"x": ', 1)
    lines = [line for line in stated.splitlines() if '"x":' not in line]
    (shared / "reference.json").write_text("\n".join(lines))
    assert publish(records, tmp_path / "second").tolerance == 0.5
    with pytest.raises(RecordError, match=r"the data set's own reference 0\.5"):
        publish(records, tmp_path / "first")


@given(st.integers(0, 10_000))
def test_weighted_utilities_are_those_of_repeated_rows(seed: int) -> None:
    generator = np.random.default_rng(seed)
    rows, classes = 30, 4
    weights = generator.integers(0, 4, (2, rows)).astype(np.float32)
    labels = generator.integers(0, classes, rows)
    predicted = generator.integers(0, classes, rows)
    scores = np.round(generator.uniform(size=rows), 1)
    binary = (labels > 1).astype(int)
    found = weighted_auroc(binary, scores, weights), weighted_kappa(labels, predicted, weights, classes)
    for row, times in enumerate(weights.astype(int)):
        area = roc_auc_score(np.repeat(binary, times), np.repeat(scores, times))
        kappa = cohen_kappa_score(
            np.repeat(labels, times), np.repeat(predicted, times), weights="linear", labels=range(classes)
        )
        np.testing.assert_allclose((found[0][row], found[1][row]), (area, kappa), atol=1e-6)


def test_every_subject_once_gives_the_utility_itself(records: list[Record]) -> None:
    record = records[0]
    once = np.ones((1, 1 + max(own.max() for own in record.subjects("test").values())), dtype=np.float32)
    stated = [item["score"] for item in record.result["utility"]["test"]["tasks"].values()]
    # Half-precision logits tie where the 30 test stays of this small study are all but equal.
    kept = record.logits("test")["mortality"]
    stated[0] = roc_auc_score(kept.labels, kept.logits[:, 0])
    np.testing.assert_allclose(utility_replicates(record, once)[0], stated, atol=2e-3)
    counts = bootstrap_counts(record.subjects("test"), replicates=50)
    present = np.unique(np.concatenate(list(record.subjects("test").values())))
    assert (counts.sum(1) == len(present)).all()


def test_settings_of_published_records_are_whole(records: list[Record], published: Path) -> None:
    for record in read_published(published)[0]:
        assert as_json(record.settings) == record.content["settings"]
