"""What the Lipschitz surrogate costs: ``python -m benchmarks.surrogate_speed``.

One step, forward and backward, in milliseconds of processor time on one thread (median), of the batched
surrogate and of a plain loop over the pairs, which computes the same numbers the way the definition reads;
and what the surrogate adds to a training step of a two-layer LSTM of width 256 on 48 hours of 76 inputs.
"""

import itertools
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from relif_core.surrogate import LipschitzSurrogate, huber, huberized_hinge

BATCH, WIDTH = 64, 256
HEADER = "| tasks | pairs | batched, ms | pair by pair, ms | ratio |\n| ---: | ---: | ---: | ---: | ---: |"


class PairByPair:
    """The same penalty, one pair at a time."""

    def __init__(self) -> None:
        self.scales: tuple[float, float] | None = None

    def __call__(self, embeddings: Tensor, scores: dict[str, Tensor]) -> Tensor:
        prototypes = []
        for values in scores.values():
            order = values.argsort(descending=True, stable=True)[:5]
            prototypes.append([int(index) for index in order if values[index] > 1e-6])
        gaps, distances = [], []
        tables = list(scores.values())
        for i, j in itertools.combinations(range(len(tables)), 2):
            for a in prototypes[i]:
                for b in prototypes[j]:
                    gaps.append(tables[i][a] - tables[j][b])
                    cosine = nn.functional.cosine_similarity(embeddings[a], embeddings[b], dim=0)
                    distances.append(((1 - cosine) / 2).clamp_min(1e-3))
        new = [
            torch.quantile(torch.stack(gaps).detach().abs(), 0.95).item(),
            torch.quantile(torch.stack(distances).detach(), 0.95).item(),
        ]
        old = self.scales or new
        self.scales = (0.9 * old[0] + 0.1 * new[0], 0.9 * old[1] + 0.1 * new[1])
        tau, kappa = self.scales
        total = torch.zeros(())
        for gap, distance in zip(gaps, distances, strict=True):
            total = total + huberized_hinge(huber(gap, 0.1) / tau - distance / kappa, 0.05)
        return total / len(gaps)


def milliseconds(step: Callable[[], None], repeats: int) -> float:
    """Return the median time of ``step`` after a warm-up."""
    times = []
    for _ in range(repeats + max(2, repeats // 10)):
        start = time.process_time()
        step()
        times.append(1000 * (time.process_time() - start))
    return statistics.median(times[-repeats:])


def random_step(tasks: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Return embeddings and scores that require gradients."""
    generator = torch.Generator().manual_seed(tasks)
    embeddings = torch.randn(BATCH, WIDTH, generator=generator, requires_grad=True)
    return embeddings, {
        f"task {i}": torch.rand(BATCH, generator=generator).requires_grad_() for i in range(tasks)
    }


def surrogate_row(tasks: int) -> str:
    """Return one line of the first table, after checking that both ways agree."""
    embeddings, scores = random_step(tasks)
    batched, loop = LipschitzSurrogate(), PairByPair()
    output, expected = batched(embeddings, scores), loop(embeddings, scores)
    torch.testing.assert_close(output.loss, expected, rtol=1e-4, atol=1e-6)
    fast = milliseconds(lambda: batched(embeddings, scores).loss.backward(), 500)
    slow = milliseconds(lambda: loop(embeddings, scores).backward(), 10)
    pairs = int(output.n_pairs)
    return f"| {tasks} | {pairs} | {fast:.2f} | {slow:.1f} | {slow / fast:.0f} |"


def training_step_ratio(rounds: int = 8) -> tuple[float, float]:
    """Return the median ERM step in milliseconds and the ratio of a step with the penalty to one without."""
    torch.manual_seed(0)
    encoder = nn.LSTM(76, WIDTH, 2, batch_first=True, dropout=0.3)
    heads = nn.Linear(WIDTH, 4)
    parameters = [*encoder.parameters(), *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=1e-3)
    inputs, labels = torch.randn(BATCH, 48, 76), torch.rand(BATCH, 4).round()
    surrogate = LipschitzSurrogate()

    def step(penalty: bool) -> None:
        optimiser.zero_grad()
        embedding = encoder(inputs)[0][:, -1]
        logits = heads(embedding)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        if penalty:
            scores = dict(enumerate(logits.sigmoid().unbind(1)))
            loss = loss + 0.1 * surrogate(embedding, {str(task): p for task, p in scores.items()}).loss
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()

    plain, penalised = [], []
    for _ in range(rounds):  # in turns, so that a busy machine slows both alike
        plain.append(milliseconds(lambda: step(False), 2))
        penalised.append(milliseconds(lambda: step(True), 2))
    ratio = statistics.median(b / a for a, b in zip(plain, penalised, strict=True))
    return statistics.median(plain), ratio


def main() -> None:
    """Print both tables."""
    print(HEADER)
    torch.set_num_threads(1)
    for tasks in (2, 3, 4):
        print(surrogate_row(tasks), flush=True)
    plain, ratio = training_step_ratio()
    print(f"\nTraining step without penalty {plain:.1f} ms; with penalty {ratio:.3f} times that.")


if __name__ == "__main__":
    main()
