"""The compiled passes count as NumPy does and sum as it does to 1e-14."""

import errno
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relif_core.audit import audit, bias_curve, compiled
from tests.relif_core.audit.brute_force import pools, tolerances
from tests.relif_core.audit.test_groups import assert_close


@pytest.fixture(params=["as written", "compiled"])
def passes(request: pytest.FixtureRequest) -> Iterator[compiled.Passes]:
    """The passes as plain Python and as machine code; NumPy's are back afterwards."""
    if request.param == "compiled":
        pytest.importorskip("numba", reason="the package numba is not installed")
        compiled.load()
        found = compiled.loaded()
        assert found is not None
    else:
        found = compiled.AS_WRITTEN
    compiled._loaded.clear()
    yield found
    compiled._loaded.clear()


def test_counts_are_numpys_and_sums_agree(passes: compiled.Passes) -> None:
    @settings(max_examples=100, deadline=None)
    @given(first=pools(), second=pools(), deltas=st.lists(tolerances, min_size=1, max_size=3))
    def equal(first: np.ndarray, second: np.ndarray, deltas: list[float]) -> None:
        scores = {"a": np.abs(first), "b": np.abs(second), "c": np.abs(first)}
        subjects = {task: np.arange(len(values)) // 2 for task, values in scores.items()}
        deltas = [min(delta, 1.0) for delta in deltas]
        compiled._loaded.clear()
        expected = audit(scores, deltas[0]), audit(scores, deltas[0], subjects=subjects)
        curve = bias_curve(scores, deltas)
        compiled._loaded.append(passes)
        found = audit(scores, deltas[0]), audit(scores, deltas[0], subjects=subjects)
        for one, other in zip(found, expected, strict=True):
            assert_close(one.as_dict(), other.as_dict())
            assert one.violation_rate == other.violation_rate
        assert bias_curve(scores, deltas).bias == pytest.approx(curve.bias, abs=1e-14)
        assert (bias_curve(scores, deltas).violation_rate == curve.violation_rate).all()

    equal()


def test_long_pools_agree_across_the_blocks_of_prefix_sums(passes: compiled.Passes) -> None:
    generator = np.random.default_rng(1)
    scores = {"a": generator.random(40_000), "b": generator.beta(2, 5, 35_000).astype(np.float32)}
    expected, curve = audit(scores, 0.275).as_dict(), bias_curve(scores, [0.0, 0.275])
    compiled._loaded.append(passes)
    assert_close(audit(scores, 0.275).as_dict(), expected)
    assert bias_curve(scores, [0.0, 0.275]).bias == pytest.approx(curve.bias, abs=1e-14)
    assert (bias_curve(scores, [0.0, 0.275]).violation_rate == curve.violation_rate).all()


def test_small_audits_do_not_load_numba() -> None:
    compiled._loaded.clear()
    assert compiled.loaded(compiled.WORTH_LOADING - 1) is None


def test_numba_that_cannot_be_imported_leaves_the_audit_to_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that was made for another NumPy."""
    compiled._loaded.clear()
    monkeypatch.setitem(sys.modules, "numba", None)
    assert compiled.loaded(compiled.WORTH_LOADING) is None
    with pytest.raises(ImportError):
        compiled.load()


def test_machine_code_that_cannot_be_kept_is_made_for_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose file system is read-only."""
    caching = pytest.importorskip("numba.core.caching", reason="the package numba is not installed")

    def read_only(**_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(caching.tempfile, "TemporaryFile", read_only)
    compiled._loaded.clear()
    assert compiled.loaded(compiled.WORTH_LOADING) is not None
    compiled._loaded.clear()
