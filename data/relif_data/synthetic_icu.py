"""A simulator of intensive care: latent severity, 17 channels with informative gaps, four kinds of label.

Each subject has five organ factors ``f ~ N(0, 1)`` and a baseline severity ``b`` that is a weighted sum of
them, of age and of chance. Within a stay the severity ``s`` is a mean-reverting process with shocks, one step
an hour,

    s[0] = b + acute excess,    s[r + 1] = s[r] + 0.05 (b - s[r]) + 0.11 ε + shock,

a shock of size N(1.2, 0.4²) coming with probability 0.006 an hour. Whoever is in the unit at the end of row
``r`` dies within the next hour with probability ``death_hazard(s[r])``, rising in ``s``, and otherwise leaves
with probability ``discharge_hazard(s[r])``, falling in ``s``. Channels are noisy functions of ``s`` and
``f``; the sicker a patient, the more often they are measured, and units differ in how often. Nothing here is
fitted to patients: figures made with it say "synthetic".

``mortality_oracle`` solves the same process for the probability of death in the unit given the true severity
and baseline, the best that any model of the observations could reach.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from relif_core.tensors.clinical import Channel, ClinicalContents, CohortStep, Group, Task, write_tensors
from relif_data.labels import (
    AGE_BANDS,
    DECOMPENSATION_HOURS,
    MORTALITY_HOUR,
    age_band,
    benchmark_tasks,
    forward_fill,
    hours_of,
    length_of_stay_class,
    offsets_of,
    require_integer,
    split_by_subject,
    value_columns,
)
from relif_data.sources import REGISTRY, own_table

FIRST_LABEL_HOUR = 5
LONGEST_STAY_HOURS = 1440

REVERSION, NOISE = 0.05, 0.11
SHOCK_RATE, SHOCK_MEAN, SHOCK_SPREAD = 0.006, 1.2, 0.4
READMISSIONS = 0.1

FACTORS = ("cardiac", "respiratory", "renal", "neurologic", "metabolic")
BASELINE_WEIGHTS = (0.35, 0.4, 0.3, 0.35, 0.2)
SEXES = ("female", "male")
WARDS = ("medical", "surgical", "cardiac")
GROUPS = (
    Group("sex", "Sex", SEXES),
    Group("age_band", "Age in years", AGE_BANDS),
    Group("ward", "Ward", WARDS),
)


@dataclass(frozen=True)
class SimulatedChannel:
    """A channel: how it follows severity and organ factors, how noisy it is, how often measured.

    Attributes:
        effects: Changes in the channel's unit per unit of severity and of each factor.
        rate: Probability of a measurement in an hour at severity 0.
        categories: Not empty for a channel of integer codes.
    """

    name: str
    unit: str
    centre: float
    severity: float
    effects: tuple[float, ...]
    person_spread: float
    noise: float
    low: float
    high: float
    decimals: int
    rate: float
    categories: tuple[int, ...] = ()


def _channel(row: dict[str, str]) -> SimulatedChannel:
    numbers = {name: json.loads(row[name]) for name in row if name not in ("name", "unit", "categories")}
    effects = tuple(numbers.pop(factor) for factor in FACTORS)
    categories = tuple(int(code) for code in row["categories"].split())
    return SimulatedChannel(row["name"], row["unit"], effects=effects, categories=categories, **numbers)


CHANNELS = tuple(_channel(row) for row in own_table("tables/synthetic_channels.csv"))
COLUMN = {channel.name: index for index, channel in enumerate(CHANNELS)}

# Name, log-odds at factors 0, then change per unit of each organ factor and of baseline severity.
PHENOTYPES: tuple[tuple[str, float, tuple[float, ...], float], ...] = tuple(
    (name, float(log_odds), tuple(map(float, effects)), float(baseline))
    for name, log_odds, *effects, baseline in map(dict.values, own_table("tables/synthetic_phenotypes.csv"))
)


def death_hazard(severity: np.ndarray) -> np.ndarray:
    """Return the probability of dying within the next hour at a severity; rises with it."""
    return np.minimum(0.0001 * np.exp(2.2 * severity), 0.1)


def discharge_hazard(severity: np.ndarray) -> np.ndarray:
    """Return a survivor's probability to leave the unit alive within the hour; falls with severity."""
    return 0.009 / (1 + np.exp(4.0 * (severity + 0.1)))


@dataclass(frozen=True)
class SimulatedCohort:
    """A simulated cohort: the truth that generated it, what was observed of it, and its labels' ingredients.

    Stays are numbered 0..n-1 in this order everywhere; rows are stay-hours, stay ``i`` owning
    ``offsets[i]:offsets[i + 1]``.

    Attributes:
        stays, subjects: int64 [stays], ids; a subject who survived may have a second stay.
        sex, age_band, ward: uint8 [stays], codes into ``SEXES``, ``AGE_BANDS``, ``WARDS``; age: float64
            [stays], years.
        factors: float64 [stays, 5], organ factors; baseline: float64 [stays], baseline severity.
        length_hours: float64 [stays], time from admission to death or discharge; died: bool [stays].
        phenotypes: uint8 [stays, 25].
        offsets: int64 [stays + 1]; severity: float64 [rows].
        readings: float32 [rows, 17], last value measured within the hour in source units, NaN where there was
            none.
        seed: The seed that made it.
    """

    stays: np.ndarray
    subjects: np.ndarray
    sex: np.ndarray
    age: np.ndarray
    age_band: np.ndarray
    ward: np.ndarray
    factors: np.ndarray
    baseline: np.ndarray
    length_hours: np.ndarray
    died: np.ndarray
    phenotypes: np.ndarray
    offsets: np.ndarray
    severity: np.ndarray
    readings: np.ndarray
    seed: int

    @property
    def rows_per_stay(self) -> np.ndarray:
        """Recorded hours of each stay."""
        return np.diff(self.offsets)

    @property
    def hour(self) -> np.ndarray:
        """The hour since admission at which each row ends: 1 for a stay's first row."""
        return hours_of(self.offsets)


def simulate(stays: int = 600, hours: int | None = 48, seed: int = 0) -> SimulatedCohort:
    """Simulate a cohort.

    About one stay in ten is the second one of a subject who survived the first. Stays end by death,
    discharge, or after 60 days; the truth about the end is kept however many hours are recorded. The same
    arguments give the same arrays.

    Args:
        stays: Number of stays, at least 10.
        hours: Recorded hours, at least 48 (the mortality label is read there); None: all.
        seed: Not negative.

    Raises:
        InputError: Arguments out of range.
    """
    require_integer("stays", stays, least=10)
    require_integer("seed", seed, least=0)
    if hours is not None:
        # The mortality label is read at hour 48.
        require_integer("hours", hours, least=MORTALITY_HOUR)
    rng = np.random.default_rng([seed, 2012])
    recorded = LONGEST_STAY_HOURS if hours is None else min(hours, LONGEST_STAY_HOURS)
    second = round(READMISSIONS * stays)
    people = _draw_people(rng, stays - second)
    first = _draw_course(rng, people["baseline"], recorded)
    alive = np.flatnonzero(~first.died)
    again = np.sort(rng.permutation(alive)[:second])
    # Where too few survived to come back, new subjects fill the cohort up.
    others = _draw_people(rng, second - len(again))
    people = {name: np.concatenate([array, array[again], others[name]]) for name, array in people.items()}
    later = _draw_course(rng, people["baseline"][stays - second :], recorded)
    newcomers = np.arange(stays - second, stays - len(again))
    subjects = 10_001 + np.concatenate([np.arange(stays - second), again, newcomers])

    rows = np.concatenate([first.rows, later.rows])
    offsets = offsets_of(rows)
    severity = np.concatenate([first.severity, later.severity])
    owner = np.repeat(np.arange(stays), rows)
    ward = rng.choice(len(WARDS), size=stays, p=(0.45, 0.3, 0.25)).astype(np.uint8)
    return SimulatedCohort(
        stays=np.arange(200_001, 200_001 + stays),
        subjects=subjects,
        sex=people["sex"].astype(np.uint8),
        age=people["age"],
        age_band=age_band(people["age"]),
        ward=ward,
        factors=people["factors"],
        baseline=people["baseline"],
        length_hours=np.concatenate([first.length, later.length]),
        died=np.concatenate([first.died, later.died]),
        phenotypes=_draw_phenotypes(rng, people["factors"], people["baseline"]),
        offsets=offsets,
        severity=severity,
        readings=_draw_readings(rng, severity, owner, offsets, people, ward),
        seed=seed,
    )


def mortality_oracle(cohort: SimulatedCohort) -> np.ndarray:
    """Return P(death in the unit | true severity, baseline at hour 48) per stay; NaN if it ended before.

    The probability ``V(s)`` of dying before leaving solves the linear system ``V = h + (1 - h)(1 - d) P V``
    for hazards ``h``, ``d`` and the hourly transition ``P`` of the severity, here on a grid of severities for
    a grid of baselines, interpolated between. (The end of stays at 60 days is ignored.)
    """
    reached = cohort.rows_per_stay >= MORTALITY_HOUR
    severity = cohort.severity[cohort.offsets[:-1][reached] + MORTALITY_HOUR - 1]
    probability = np.full(len(cohort.stays), np.nan)
    probability[reached] = _death_probability(severity, cohort.baseline[reached])
    return probability


def prepare(
    source: Path | None,
    target: Path,
    *,
    stays: int = 600,
    hours: int | None = 48,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Simulate a cohort and write it as clinical tensors marked synthetic.

    Subjects are split 60/20/20 into train, validation and test.

    Args:
        source: Not used.
        target: Folder of the tensors.
        stays: As for ``simulate``.
        hours: As for ``simulate``.
        seed: As for ``simulate``.
        progress: Called with a line of text per step.

    Raises:
        InputError: Options out of range.
        DataError: ``target`` holds something else.
    """
    report = progress or (lambda message: None)
    report(f"simulating {stays} stays")
    cohort = simulate(stays, hours, seed)
    report(f"writing {int(cohort.offsets[-1])} stay-hours")
    observed = ~np.isnan(cohort.readings)
    normal = np.array([channel.centre for channel in CHANNELS])
    filled = forward_fill(cohort.readings, observed, cohort.offsets, normal)
    labels, masks = _labels(cohort)
    short = int((masks["mortality"] == 0).sum())
    return write_tensors(
        target,
        ClinicalContents(
            **REGISTRY["synthetic_icu"].terms,
            sources=[],
            channels=tensor_channels(),
            tasks=tensor_tasks(),
            groups=GROUPS,
            group_codes={group.name: getattr(cohort, group.name) for group in GROUPS},
            cohort=[CohortStep("simulated stays", 0, stays, len(np.unique(cohort.subjects)))],
            notes=[
                "Synthetic: every value comes from a simulator, none from a patient.",
                f"Mortality: death in the unit, predicted at hour {MORTALITY_HOUR}; {short} stays ended"
                " before and carry no label.",
                f"Decompensation: death within {DECOMPENSATION_HOURS} hours; remaining length of stay: time"
                f" to death or discharge; both from hour {FIRST_LABEL_HOUR} on.",
            ],
            options={"stays": stays, "hours": hours, "seed": seed},
            values=value_columns(filled, [channel.categories for channel in CHANNELS]),
            observed=observed,
            offsets=cohort.offsets,
            stays=cohort.stays,
            subjects=cohort.subjects,
            split=split_by_subject(cohort.subjects, validation=0.2, test=0.2, seed=seed),
            labels=labels,
            label_masks=masks,
        ),
    )


def tensor_channels() -> tuple[Channel, ...]:
    """Return the schema of the 17 channels: categories become one column each."""
    return tuple(
        Channel(
            channel.name,
            channel.unit,
            tuple(f"{channel.name} {code}" for code in channel.categories) or (channel.name,),
            channel.centre,
        )
        for channel in CHANNELS
    )


def tensor_tasks() -> tuple[Task, ...]:
    """Return the four tasks: mortality, decompensation, remaining length of stay, phenotypes."""
    return benchmark_tasks("Death in the unit", tuple(name for name, *_ in PHENOTYPES))


@dataclass(frozen=True)
class _Course:
    """Course of some stays: recorded rows and severity (concatenated), full length in hours, death."""

    rows: np.ndarray
    severity: np.ndarray
    length: np.ndarray
    died: np.ndarray


def _draw_people(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Draw a subject's sex, age, factors, baseline severity, and constant offsets of the channels."""
    age = np.clip(rng.normal(64, 16, count), 18, 95)
    factors = rng.normal(size=(count, len(FACTORS)))
    chance = rng.normal(0, 0.8, count)
    baseline = -0.4 + factors @ np.array(BASELINE_WEIGHTS) + 0.015 * (age - 64) + chance
    spread = np.array([channel.person_spread for channel in CHANNELS])
    return {
        "sex": rng.integers(0, 2, count),
        "age": age,
        "factors": factors,
        "baseline": baseline,
        "offsets": rng.normal(size=(count, len(CHANNELS))) * spread,
    }


def _draw_course(rng: np.random.Generator, baseline: np.ndarray, recorded: int) -> _Course:
    """Run the severity process of all stays at once, hour by hour, until the last one has ended."""
    count = len(baseline)
    length = np.full(count, float(LONGEST_STAY_HOURS))
    died = np.zeros(count, dtype=bool)
    active = np.arange(count)
    severity = baseline + np.maximum(rng.normal(1.0, 0.5, count), 0)
    owners, histories = [], []
    for hour in range(1, LONGEST_STAY_HOURS + 1):
        if hour <= recorded:
            owners.append(active)
            histories.append(severity)
        chance = rng.random((3, len(active)))
        dies = chance[0] < death_hazard(severity)
        leaves = dies | (chance[1] < discharge_hazard(severity))
        if hour < LONGEST_STAY_HOURS:
            length[active[leaves]] = hour + chance[2][leaves]
        died[active[dies]] = True
        active, severity = active[~leaves], severity[~leaves]
        if not len(active):
            break
        shock = rng.random(len(active)) < SHOCK_RATE
        severity = (
            severity
            + REVERSION * (baseline[active] - severity)
            + NOISE * rng.normal(size=len(active))
            + shock * rng.normal(SHOCK_MEAN, SHOCK_SPREAD, len(active))
        )
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    return _Course(
        rows=np.bincount(owner, minlength=count),
        severity=np.concatenate(histories)[order],
        length=length,
        died=died,
    )


def _draw_phenotypes(rng: np.random.Generator, factors: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    _, intercept, loading, slope = map(np.array, zip(*PHENOTYPES, strict=True))
    logit = intercept + factors @ loading.T + baseline[:, None] * slope
    return (rng.random(logit.shape) < 1 / (1 + np.exp(-logit))).astype(np.uint8)


def _draw_readings(
    rng: np.random.Generator,
    severity: np.ndarray,
    owner: np.ndarray,
    offsets: np.ndarray,
    people: dict[str, np.ndarray],
    ward: np.ndarray,
) -> np.ndarray:
    """Draw what the staff wrote down each hour: float32 [rows, 17], NaN where nothing."""
    rows = len(severity)
    readings = np.empty((rows, len(CHANNELS)), dtype=np.float32)
    # Measuring grows with severity; surgical and cardiac wards watch more closely than the medical one.
    attention = 0.35 * severity + np.array([0.0, 0.2, 0.4])[ward][owner]
    factors = people["factors"][owner]
    for index, channel in enumerate(CHANNELS):
        value = (
            channel.centre
            + channel.severity * severity
            + factors @ np.array(channel.effects)
            + people["offsets"][owner, index]
            + channel.noise * rng.normal(size=rows)
        )
        readings[:, index] = _written(channel, value)
    _relate_pressures(rng, readings)
    _set_scores(rng, readings, severity, factors)
    coma = rng.random(rows)
    for index, channel in enumerate(CHANNELS):
        chance = coma if channel.name.startswith("Glasgow") else rng.random(rows)
        if channel.rate > 0:
            usual = np.log(channel.rate / (1 - channel.rate))
            measured = chance < 1 / (1 + np.exp(-usual - attention))
        else:
            measured = np.zeros(rows, dtype=bool)
            measured[offsets[:-1]] = chance[offsets[:-1]] < 0.7
        readings[~measured, index] = np.nan
    return readings


def _written(channel: SimulatedChannel, value: np.ndarray) -> np.ndarray:
    """Return values as a chart shows them: within the possible range, rounded to the usual digits."""
    return np.clip(np.round(value, channel.decimals), channel.low, channel.high)


def _relate_pressures(rng: np.random.Generator, readings: np.ndarray) -> None:
    """Keep diastolic below systolic pressure and the mean near a third of the way up, in place."""
    high, low, middle = (COLUMN[f"{name} blood pressure"] for name in ("Systolic", "Diastolic", "Mean"))
    systolic = readings[:, high]
    diastolic = np.minimum(readings[:, low], systolic - 10)
    noise = CHANNELS[middle].noise * rng.normal(size=len(readings))
    mean = diastolic + (systolic - diastolic) / 3 + noise
    readings[:, low] = diastolic
    readings[:, middle] = np.clip(np.round(mean), diastolic, systolic)


def _set_scores(
    rng: np.random.Generator, readings: np.ndarray, severity: np.ndarray, factors: np.ndarray
) -> None:
    """Fill in the coma scale (the total is the sum of its parts) and capillary refill, in place."""
    rows = len(readings)
    drive = 0.8 * severity + 1.0 * factors[:, FACTORS.index("neurologic")]
    total = np.zeros(rows)
    for part, top in (("eye opening", 4), ("verbal response", 5), ("motor response", 6)):
        loss = 1 / (1 + np.exp(2.2 - drive + 0.5 * rng.normal(size=rows)))
        score = np.clip(np.round(top - (top - 1) * loss), 1, top)
        readings[:, COLUMN[f"Glasgow coma scale {part}"]] = score
        total += score
    readings[:, COLUMN["Glasgow coma scale total"]] = total
    delayed = rng.random(rows) < 1 / (1 + np.exp(3 - severity))
    readings[:, COLUMN["Capillary refill rate"]] = delayed


def _labels(cohort: SimulatedCohort) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    hour = cohort.hour
    remaining = np.repeat(cohort.length_hours, cohort.rows_per_stay) - hour
    died = np.repeat(cohort.died, cohort.rows_per_stay)
    hourly = (hour >= FIRST_LABEL_HOUR).astype(np.uint8)
    labels = {
        "mortality": cohort.died.astype(np.int16),
        "decompensation": (died & (remaining <= DECOMPENSATION_HOURS)).astype(np.int16),
        "los": length_of_stay_class(remaining / 24),
        "phenotypes": cohort.phenotypes,
    }
    masks = {
        "mortality": (cohort.rows_per_stay >= MORTALITY_HOUR).astype(np.uint8),
        "decompensation": hourly,
        "los": hourly,
        "phenotypes": np.ones(len(cohort.stays), dtype=np.uint8),
    }
    return labels, masks


def _death_probability(severity: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Interpolate P(death before discharge | severity, baseline) from its solution on a grid."""
    step = 0.06
    grid = np.arange(-6.0, 10.0 + step, step)
    nodes = np.linspace(-5.0, 5.0, 41)
    death, discharge = death_hazard(grid), discharge_hazard(grid)
    mean = grid[None, :] + REVERSION * (nodes[:, None] - grid[None, :])

    def density(shift: float, spread: float) -> np.ndarray:
        distance = (grid[None, None, :] - mean[:, :, None] - shift) / spread
        weight = np.exp(-0.5 * distance**2)
        return weight / weight.sum(axis=2, keepdims=True)

    move = (1 - SHOCK_RATE) * density(0.0, NOISE) + SHOCK_RATE * density(
        SHOCK_MEAN, float(np.hypot(SHOCK_SPREAD, NOISE))
    )
    system = np.eye(len(grid)) - ((1 - death) * (1 - discharge))[None, :, None] * move
    solution = np.linalg.solve(system, np.broadcast_to(death[:, None], (len(nodes), len(grid), 1)))[:, :, 0]

    column = np.clip((severity - grid[0]) / step, 0, len(grid) - 1.001)
    row = np.clip((baseline - nodes[0]) / (nodes[1] - nodes[0]), 0, len(nodes) - 1.001)
    left, below = column.astype(int), row.astype(int)
    across, up = column - left, row - below
    lower = solution[below, left] * (1 - across) + solution[below, left + 1] * across
    upper = solution[below + 1, left] * (1 - across) + solution[below + 1, left + 1] * across
    return lower * (1 - up) + upper * up
