"""The metric over batches is the histogram of all of them, in every process of distributed training.

Every test runs with torchmetrics and without.
"""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from relif_core.audit import HistogramSketch, audit
from relif_core.audit import metric as module
from relif_core.errors import InputError
from tests.relif_core.audit.brute_force import pools


@pytest.fixture(scope="module", params=["with torchmetrics", "without"])
def metric_class(request: pytest.FixtureRequest) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(vars(module), "AuditMetric", raising=False)
        if request.param == "without":
            patch.setitem(sys.modules, "torchmetrics", None)
        made = module.AuditMetric
        assert any(base.__module__ == "torchmetrics.metric" for base in made.__mro__) == (
            request.param != "without"
        )
        yield made
        del module.AuditMetric


@settings(max_examples=50, deadline=None)
@given(first=pools(), second=pools(), batches=st.integers(1, 5))
def test_batches_add_up_to_the_histogram_of_all_scores(
    metric_class: Any, first: np.ndarray, second: np.ndarray, batches: int
) -> None:
    scores = {"a": np.abs(first), "b": np.abs(second)}
    metric = metric_class(["a", "b"], 0.275, bins=256)
    for k in range(batches):
        metric.update({task: torch.from_numpy(values[k::batches].copy()) for task, values in scores.items()})
    expected = HistogramSketch.of(scores, 256)
    assert metric.sketch().to_json() == expected.to_json()
    found = metric.compute()
    assert found["bias"].item() == pytest.approx(expected.audit(0.275).bias, abs=1e-7)
    exact = audit(scores, 0.275)
    assert found["bias_low"].item() - 1e-6 <= exact.bias <= found["bias_high"].item() + 1e-6
    assert found["violation_rate_low"].item() - 1e-6 <= exact.violation_rate
    assert exact.violation_rate <= found["violation_rate_high"].item() + 1e-6


def test_gradients_end_at_the_metric_and_memory_is_constant(metric_class: Any) -> None:
    metric = metric_class(["a", "b"], 0.1, bins=64)
    scores = torch.rand(1000, requires_grad=True)
    for _ in range(3):
        metric.update({"a": scores.sigmoid(), "b": scores.bfloat16()})
    assert not metric.counts.requires_grad
    assert not any(value.requires_grad for value in metric.compute().values())
    assert metric.counts.shape == (2, 64)
    assert metric.counts.sum() == 6000
    twin = copy.deepcopy(metric)
    metric.reset()
    assert metric.counts.sum() == 0
    assert twin.compute()["bias"] > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_every_floating_kind_is_counted_as_its_value(metric_class: Any, dtype: torch.dtype) -> None:
    values = torch.tensor([0.0, 0.1, 0.5, 0.99, 1.0]).to(dtype)
    metric = metric_class(["a", "b"], 0.1, bins=1024)
    metric.update({"a": values, "b": torch.ones(1)})
    expected = HistogramSketch.of({"a": values.double().numpy(), "b": [1.0]}, 1024)
    assert metric.sketch().to_json() == expected.to_json()


def test_softmax_a_hair_over_one_counts_as_one(metric_class: Any) -> None:
    metric = metric_class(["a", "b"], 0.1, bins=4)
    metric.update({"a": torch.tensor([1 + 1.2e-7]), "b": torch.tensor([0.5])})
    assert metric.counts.tolist() == [[0, 0, 0, 1], [0, 0, 1, 0]]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"c": torch.ones(1)}, "task 'c' is none of the metric's tasks"),
        ({"a": torch.ones(2, 2)}, r"must be one-dimensional, got shape \(2, 2\)"),
        ({"a": [0.5]}, "must map task names to tensors; use torch.as_tensor"),
        ({"a": np.array([0.5])}, "must map task names to tensors"),
        ({"a": torch.tensor([0.5j])}, "scores must be real numbers, got torch.complex64"),
        ({"a": torch.tensor([0.5, float("nan"), 1.01])}, r"2 of 3 scores are NaN or outside \[0, 1\]"),
    ],
)
def test_a_refused_batch_changes_nothing(
    metric_class: Any, scores: dict[str, torch.Tensor], message: str
) -> None:
    metric = metric_class(["a", "b"], 0.1)
    with pytest.raises(InputError, match=message):
        metric.update({"b": torch.ones(3), **scores})
    assert metric.counts.sum() == 0


def test_a_task_without_scores_is_named(metric_class: Any) -> None:
    metric = metric_class(["a", "b"], 0.1)
    metric.update({"a": torch.ones(3)})
    with pytest.raises(InputError, match="task 'b': no cell of the histogram shows a sample"):
        metric.compute()
    with pytest.raises(InputError, match="needs at least two"):
        metric_class(["a", "a"], 0.1)
    with pytest.raises(InputError, match="the tasks a, b, a name one twice"):
        metric_class(["a", "b", "a"], 0.1)
    for names in ("ab", [1, 2], None):
        with pytest.raises(InputError, match="needs at least two, named by text"):
            metric_class(names, 0.1)


@pytest.mark.parametrize("metric_class", ["with torchmetrics"], indirect=True)
def test_it_joins_a_collection_of_torchmetrics(metric_class: Any) -> None:
    from torchmetrics import MetricCollection

    both = MetricCollection({f"{bins}": metric_class(["a", "b"], 0.1, bins=bins) for bins in (4, 1024)})
    shown = both({"a": torch.rand(100), "b": torch.rand(100)})
    assert shown == both.compute()
    assert {"4_bias", "1024_bias_low", "1024_violation_rate"} < shown.keys()


PROCESS = """
import json, sys, torch
if sys.argv[3] == "without":
    sys.modules["torchmetrics"] = None
from relif_core.audit.metric import AuditMetric
rank, meeting = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
metric = AuditMetric(["a", "b"], 0.1, bins=16)
heavy = AuditMetric(["a", "b"], 0.1, bins=16, weighted=True)
for batch in range(1 + 2 * rank):  # the processes have different numbers of batches
    scores = {"a": torch.full((4,), 0.1 + 0.2 * batch), "b": torch.full((3,), 0.9 - 0.3 * rank)}
    metric.update(scores)
    heavy.update(scores, {task: torch.full_like(own, 2.0) for task, own in scores.items()})
values = [one.compute()["bias"].item() for one in (metric, metric, heavy)]
assert heavy.masses.sum((1, 2)).tolist() == [6 * own for own in heavy.counts.sum(1).tolist()]
own = metric.counts.sum(1).tolist()
metric.sync()
everyone = metric.counts.sum(1).tolist()
metric.unsync()
print(json.dumps([values, own, everyone, metric.counts.sum(1).tolist()]))
torch.distributed.destroy_process_group()
"""


@pytest.mark.parametrize("torchmetrics", ["with", "without"])
def test_every_process_computes_the_audit_of_all_and_keeps_its_own_counts(
    torchmetrics: str, tmp_path: Path
) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(rank), str(tmp_path / "meeting"), torchmetrics],
            stdout=subprocess.PIPE,
            env=environment,
        )
        for rank in range(2)
    ]
    answers = [json.loads(process.communicate(timeout=300)[0]) for process in started]
    everyone = {"a": [0.1] * 8 + [0.3] * 4 + [0.5] * 4, "b": [0.9] * 3 + [0.6] * 9}
    expected = HistogramSketch.of(everyone, 16).audit(0.1).bias
    for (values, own, together, after), batches in zip(answers, (1, 3), strict=True):
        assert values == [pytest.approx(expected, abs=1e-7)] * 3
        assert own == after == [4 * batches, 3 * batches]
        assert together == [16, 12]
