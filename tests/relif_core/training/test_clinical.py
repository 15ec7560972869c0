"""Batches, scores and evaluation: padding is invisible, nothing after a label is read."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from relif_core.errors import DataError
from relif_core.models.clinical import FALLEN, ClinicalModel, _runs, audit_score, dropout
from relif_core.problems.clinical import ClinicalProblem
from relif_core.settings import ModelSettings
from relif_core.tensors.clinical import ClinicalTensors, Task

MODEL = ModelSettings(hidden=12, head_width=8)


def test_padding_changes_nothing(icu: ClinicalProblem) -> None:
    model = icu.build_model(MODEL).eval()
    lengths = np.diff(icu.tensors.arrays["offsets"])
    pair = np.array([lengths.argmin(), lengths.argmax()])
    assert lengths[pair[0]] < lengths[pair[1]]
    together, alone = icu.batch(pair), icu.batch(pair[:1])
    torch.testing.assert_close(model(together).embedding[:1], model(alone).embedding)
    for task, score in model.scores(model(together), together).items():
        torch.testing.assert_close(score[:1], model.scores(model(alone), alone)[task])
    torch.testing.assert_close(
        icu.batch(pair)["inputs"][0, lengths[pair[0]] :].abs().sum(), torch.tensor(0.0)
    )


def test_inputs_are_standardised_values_and_masks(icu: ClinicalProblem) -> None:
    tensors = icu.tensors
    batch = icu.batch(np.array([3]))
    rows = slice(tensors.arrays["offsets"][3], tensors.arrays["offsets"][4])
    width = len(tensors.columns)
    mean = np.array(tensors.manifest["statistics"]["mean"])
    deviation = np.array(tensors.manifest["statistics"]["standard_deviation"])
    expected = (tensors.arrays["values"][rows] - mean) / np.where(deviation > 1e-6, deviation, 1)
    np.testing.assert_allclose(batch["inputs"][0, :, :width].numpy(), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(batch["inputs"][0, :, width:].numpy(), tensors.arrays["observed"][rows])


def test_predictions_do_not_see_later_hours(icu: ClinicalProblem) -> None:
    """Scrambling every hour from a label's time on leaves that label's logit unchanged."""
    model = icu.build_model(MODEL).eval()
    stays = np.flatnonzero(np.diff(icu.tensors.arrays["offsets"]) > 50)[:4]
    batch = icu.batch(stays)
    changed = dict(batch)
    changed["inputs"] = batch["inputs"].clone()
    changed["inputs"][:, 48:] = torch.randn_like(changed["inputs"][:, 48:]) * 50
    before, after = model(batch).logits, model(changed).logits
    torch.testing.assert_close(before["mortality"], after["mortality"])
    for hourly in ("decompensation", "los"):
        torch.testing.assert_close(before[hourly][:, :48], after[hourly][:, :48])
        assert not torch.allclose(before[hourly][:, 48:], after[hourly][:, 48:])


def test_audit_scores_by_hand() -> None:
    logit = float(np.log(3))  # sigmoid 0.75
    binary = Task("a", "", "binary", "stay")
    torch.testing.assert_close(
        audit_score(binary, torch.tensor([[logit], [logit]]), torch.tensor([1, 0])), torch.tensor([0.75, 0.0])
    )
    hourly = Task("b", "", "binary", "hourly")
    logits = torch.tensor([[[logit], [0.0], [9.0]]])
    torch.testing.assert_close(audit_score(hourly, logits, torch.tensor([[1, 1, 0]])), torch.tensor([0.625]))
    binned = Task("c", "", "binned", "stay", classes=3)
    torch.testing.assert_close(
        audit_score(binned, torch.tensor([[logit, 0.0, 0.0]]), torch.tensor([1])), torch.tensor([0.6])
    )
    multilabel = Task("d", "", "multilabel", "stay", classes=2)
    torch.testing.assert_close(
        audit_score(multilabel, torch.tensor([[0.0, logit]]), torch.tensor([1])), torch.tensor([0.75])
    )


def test_evaluation_equals_one_stay_at_a_time(icu: ClinicalProblem) -> None:
    model = icu.build_model(MODEL).eval()
    found = icu.evaluate(model, "validation")
    for place, stay in enumerate(found.order):
        batch = icu.batch(np.array([stay]))
        outputs = model(batch)
        np.testing.assert_allclose(found.embeddings[place], outputs.embedding[0].detach().numpy(), atol=1e-5)
        for task, score in model.scores(outputs, batch).items():
            inside = found.samples[task] == stay
            if inside.any():
                np.testing.assert_allclose(found.scores[task][inside], score.detach().numpy(), atol=1e-5)
            else:
                assert score.item() == 0


@pytest.mark.parametrize("name", ["type", "los.24", ""])
def test_a_name_that_no_module_can_have_is_named(name: str) -> None:
    with pytest.raises(DataError, match=rf"no head can be called '{name}' .*; rename the task"):
        ClinicalModel(3, [Task(name, "", "binary", "stay")], ModelSettings(hidden=4))


def test_the_released_hours_can_be_cut(icu_folder: Path, icu: ClinicalProblem) -> None:
    cut = ClinicalProblem(ClinicalTensors.open(icu_folder), maximum_hours=50)
    longest = int(np.diff(icu.tensors.arrays["offsets"]).argmax())
    assert icu.batch(np.array([longest]))["inputs"].shape[1] > 50
    assert cut.batch(np.array([longest]))["inputs"].shape[1] == 50
    with pytest.raises(DataError, match="below a task's horizon of 48"):
        ClinicalProblem(ClinicalTensors.open(icu_folder), maximum_hours=47)


def test_the_training_order_depends_on_seed_and_epoch_alone(icu: ClinicalProblem) -> None:
    def first(seed: int, epoch: int) -> torch.Tensor:
        return next(icu.training_batches(16, seed, epoch))["inputs"]

    def same(a: torch.Tensor, b: torch.Tensor) -> bool:
        return a.shape == b.shape and bool(torch.equal(a, b))

    assert same(first(0, 0), first(0, 0))
    assert not same(first(0, 0), first(0, 1))
    assert not same(first(0, 0), first(1, 0))


def test_hours_of_ended_stays_are_not_computed_and_nothing_changes(icu: ClinicalProblem) -> None:
    """States and gradients equal those of ``nn.LSTM`` over the padded batch, whatever the stays' order."""
    model = icu.build_model(replace(MODEL, dropout=0.0)).double()
    batch = icu.batch(icu.tensors.stays_of("train")[:24])
    batch["inputs"] = batch["inputs"].double()
    for lengths in (batch["lengths"], torch.full((24,), batch["inputs"].shape[1])):
        valid = torch.arange(batch["inputs"].shape[1]) < lengths[:, None]
        factors = torch.randn(int(valid.sum()), MODEL.hidden, dtype=torch.float64)
        states, places = model._states(batch["inputs"], lengths)
        packed, padded = states[places[valid]], model.encoder(batch["inputs"])[0][valid]
        torch.testing.assert_close(packed, padded)
        for own, plain in zip(
            *(torch.autograd.grad((s * factors).sum(), model.shared_parameters()) for s in (packed, padded)),
            strict=True,
        ):
            torch.testing.assert_close(own, plain, rtol=1e-9, atol=1e-9)
    assert len(states) < 1.25 * lengths.sum()


@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=20))
def test_runs_cover_every_hour_of_every_stay_at_little_surplus(lengths: list[int]) -> None:
    alive = [sum(length > hour for length in lengths) for hour in range(max(lengths))]
    runs = list(_runs([*alive, 0, 0]))  # a batch may be wider than its longest stay
    assert [run[0] for run in runs] == [0, *(run[1] for run in runs[:-1])]
    assert runs[-1][1] == len(alive)
    for start, stop, count in runs:
        assert count == alive[start]
        assert all(each > (1 - FALLEN) * count for each in alive[start:stop])


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 0.5, 0.999999, 1.0])
def test_dropout_keeps_the_mean_and_the_rate(rate: float) -> None:
    torch.manual_seed(0)
    ones = torch.ones(999, 401, requires_grad=True)
    dropped = dropout(ones, rate, training=True)
    share = (dropped == 0).double().mean().item()
    assert abs(share - rate) < 5 * np.sqrt(rate * (1 - rate) / ones.numel()) + 2**-16
    kept = dropped[dropped != 0]
    if 0 < rate < 0.9:
        levels = 2**16
        assert torch.all(kept == levels / (levels - round(rate * levels)))
        # Neighbours share one random number and are independent all the same.
        off = (dropped.detach().flatten()[:400_000].view(-1, 4) == 0).double()
        assert (torch.corrcoef(off.T) - torch.eye(4)).abs().max() < 0.02
    dropped.sum().backward()
    torch.testing.assert_close(ones.grad, dropped.detach())
    assert dropout(ones, rate, training=False) is ones
