"""Batches, scores and evaluation: padding is invisible, nothing after a label is read."""

from pathlib import Path

import numpy as np
import pytest
import torch

from relif_core.errors import DataError
from relif_core.models.clinical import audit_score
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
