"""Every setting of a run in one place, with the defaults that the paper's released configuration states.

Settings are frozen dataclasses of plain values: they print as Table 5, travel in records as JSON, and their
hash is part of a record's key. ``settings_from`` reads them back and refuses unknown names and wrong types. A
setting that was added after records had been made is marked ``ADDED``: its JSON form names it only where it
is not at its default, so that earlier keys stand.
"""

import dataclasses
import functools
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from relif_core.domains import check_domains
from relif_core.errors import InputError
from relif_core.methods import method_of
from relif_core.options import nested, read_pairs, typed_value

ADDED: Mapping[str, Any] = {"added_after_records_were_made": True}

#: The state of the numerics: part of a run's key, raised whenever the same settings would give other numbers.
#:
#: 1. Records made before there was a revision; their JSON does not name it.
#: 2. Balancers and means skip tasks that a batch has no label for; dense heads start at the median depth and
#:    the mean normal; dropout masks are drawn only where a head reads; AdamW is fused; validation runs in the
#:    training precision; GradNorm's weights take Adam steps; every epoch is audited (``epoch/`` arrays).
REVISION = 2


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {item.name: hints[item.name] for item in dataclasses.fields(kind)}


class Checked:
    """Settings that refuse, when they are made, values of a wrong type or outside their range.

    Equal settings are written alike and have one key: 1 for a float becomes 1.0, -0.0 becomes 0.0.

    Raises:
        InputError: Naming the setting, its value and what it must be.
    """

    def __post_init__(self) -> None:
        """Check every field's domain, and make its value one of its type."""
        for name, hint in _hints(type(self)).items():  # type: ignore[arg-type]
            owner, value = type(self).__name__, getattr(self, name)
            check_domains(owner, **{name: value})
            object.__setattr__(self, name, typed_value(f"{owner}.{name}", hint, value))


@dataclass(frozen=True)
class ModelSettings(Checked):
    """The clinical model: a shared LSTM and one two-layer head per task."""

    hidden: int = 256
    layers: int = 2
    dropout: float = 0.3
    head_width: int = 128


@dataclass(frozen=True)
class DenseModelSettings(Checked):
    """The dense model and how its images are used.

    Attributes:
        weights: None (random), "download" (torchvision's ImageNet weights), or the sha256 of a weights file,
            whose place is given beside the settings.
        augmentation: "flip" mirrors, "flip_scale" also zooms; the paper states none.
        protocol: "as_released" trains on the validation part too, and selects, calibrates and reports on the
            same test images, as the released implementation does.
        task: None trains all three decoders; a name that task's alone, against which Δm measures the others.
    """

    encoder: str = "resnet50"
    weights: None | str = None  # noqa: RUF036 - "none" is read as None, not as a name.
    head: Literal["decoder", "aspp"] = "decoder"
    augmentation: Literal["none", "flip", "flip_scale"] = "none"
    protocol: Literal["held_out", "as_released"] = "held_out"
    task: Literal["segmentation", "depth", "normals"] | None = field(default=None, metadata=ADDED)


@dataclass(frozen=True)
class TrainingSettings(Checked):
    """Optimisation and checkpoint selection.

    Attributes:
        gradient_clip: 0 clips nothing, as in the release.
        precision: Autocast type of the device that trains.
        evaluate_every: Epochs are evaluated, and may be selected, every so many, and at the end.
    """

    epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    gradient_clip: float = 1.0
    patience: int = 30
    minimum_improvement: float = 5e-4
    precision: Literal["float32", "bfloat16"] = "float32"
    maximum_hours: int | None = None
    evaluate_every: int = field(default=1, metadata=ADDED)


@dataclass(frozen=True)
class SurrogateSettings(Checked):
    """The training penalty: the huberised Lipschitz surrogate R (Algorithm 2), or one of two others.

    Each kind reads only what it needs.

    Attributes:
        kind: "audit" is the audit's own Bias over the batch; "similar_pairs" compares every sample with its
            nearest in the batch (relif_core.penalties).
        tolerance: δ of "audit".
        slope: L of "similar_pairs": the allowed gap per distance.
        neighbours: Of each sample.
    """

    huber_width: float = 0.1
    hinge_width: float = 0.05
    prototypes: int = 5
    distance_floor: float = 1e-3
    ema: float = 0.1
    align: bool = True
    kind: Literal["lipschitz", "audit", "similar_pairs"] = field(default="lipschitz", metadata=ADDED)
    tolerance: float | None = field(default=None, metadata=ADDED)
    slope: float | None = field(default=None, metadata=ADDED)
    neighbours: int = field(default=5, metadata=ADDED)

    def __post_init__(self) -> None:
        """Check the ranges, and that the kind has its number; ``InputError``."""
        super().__post_init__()
        needed = {"audit": "tolerance", "similar_pairs": "slope"}.get(self.kind)
        if needed and getattr(self, needed) is None:
            raise InputError(f"the penalty of kind {self.kind!r} needs surrogate.{needed}; set it")


@dataclass(frozen=True)
class ControllerSettings(Checked):
    """The feedback on the penalty weight λ.

    Attributes:
        kind: "constant" keeps λ at ``initial`` (an ablation), the others within its bounds, ``initial`` too.
            "proportional_integral" (an extension) reads ``step_size`` as its integral gain.
        proportional_gain: Of "proportional_integral" alone.
    """

    kind: Literal["feedback", "constant", "proportional_integral"] = "feedback"
    target: float = 0.16
    step_size: float = 0.001
    initial: float = 0.1
    minimum: float = 0.01
    maximum: float = 1.0
    warmup: int = 100
    ema: float = 0.1
    proportional_gain: float = 1.0

    def __post_init__(self) -> None:
        """Check the ranges, and that a weight that moves starts within its bounds; ``InputError``."""
        super().__post_init__()
        if self.kind != "constant" and not self.minimum <= self.initial <= self.maximum:
            raise InputError(
                "ControllerSettings: minimum <= initial <= maximum must hold, "
                f"got {self.minimum}, {self.initial}, {self.maximum}"
            )


@dataclass(frozen=True)
class AuditSettings(Checked):
    """The audit of a finished run: the prototypes of induced tolerances and the sampled protocol's draws."""

    prototypes: int = 5
    pair_seed: int = 42
    pool_size: int = 256
    pairs: int = 4096


@dataclass(frozen=True)
class RunSettings(Checked):
    """One training run: a balancer, with or without the penalty, a seed and every number in force."""

    method: str = "relif"
    balancer: str = "erm"
    penalty: bool = True
    seed: int = 0
    #: See ``REVISION``; records that do not name it are of revision 1.
    revision: int = field(default=REVISION, metadata={**ADDED, "before": 1})
    model: ModelSettings | DenseModelSettings = field(default_factory=ModelSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    surrogate: SurrogateSettings = field(default_factory=SurrogateSettings)
    controller: ControllerSettings = field(default_factory=ControllerSettings)
    audit: AuditSettings = field(default_factory=AuditSettings)


Settings = TypeVar("Settings")

#: What dense prediction changes in ``RunSettings`` (NYUv2, as in the paper's released configuration).
DENSE_DEFAULTS: dict[str, Any] = {
    "model": DenseModelSettings(),
    "training": {"learning_rate": 1e-4, "batch_size": 8, "epochs": 100},
}


def method_settings(method: str, **changes: Any) -> RunSettings:
    """Return the settings of a named method.

    Args:
        method: A key of ``relif_core.methods.METHODS`` or ``<balancer>+relif``.
        **changes: Fields or mappings of fields, applied on top.

    >>> method_settings("relif", controller={"target": 0.2}).controller.target
    0.2
    >>> method_settings("pcgrad+relif").balancer
    'pcgrad'

    Raises:
        InputError: No such method or setting, or a change of what makes the method.
    """
    entry = method_of(method)
    base = RunSettings(method=method, balancer=entry.balancer, penalty=entry.penalty)
    # What makes a method of dense prediction is part of the model, which ``changes`` bring.
    parts = (changes, entry.changes) if entry.dense else (entry.changes, changes)
    settings = changed(changed(base, parts[0]), parts[1])
    made_of = {"balancer": entry.balancer, "penalty": entry.penalty} | {
        part: {name: value for name, value in own.items() if name not in entry.of_data}
        for part, own in entry.changes.items()
    }
    if changed(settings, made_of) != settings:
        raise InputError(f"method {method!r} is made of the settings {made_of}; leave these as they are")
    return settings


def dense_changes(**changes: Any) -> dict[str, Any]:
    """Return ``changes`` on top of ``DENSE_DEFAULTS``, for ``method_settings`` and the grids of a study.

    >>> method_settings("relif", **dense_changes(model={"encoder": "resnet18"})).training.batch_size
    8
    """
    model, training = changes.get("model", {}), changes.get("training", {})
    if isinstance(model, Mapping):
        model = changed(DENSE_DEFAULTS["model"], model)
    if isinstance(training, Mapping):
        training = {**DENSE_DEFAULTS["training"], **training}
    return {**changes, "model": model, "training": training}


def dense_settings(method: str, **changes: Any) -> RunSettings:
    """Return a named method's settings on dense prediction, on top of ``DENSE_DEFAULTS``.

    Args:
        method: As of :func:`method_settings`.
        **changes: As of :func:`method_settings`.
    """
    return method_settings(method, **dense_changes(**changes))


def changed(settings: Settings, changes: Mapping[str, Any]) -> Settings:
    """Return a copy of settings with changes applied.

    A mapping for a field of several kinds of settings belongs to the present kind if that knows all its
    names, else to the one that does.

    Args:
        settings: Of any kind.
        changes: Field → value, for nested settings a mapping.

    Raises:
        InputError: There is no such setting.
    """
    known = {item.name for item in dataclasses.fields(settings)}  # type: ignore[arg-type]
    values = {}
    for name, value in changes.items():
        if name not in known:
            raise InputError(
                f"{type(settings).__name__} has no setting {name!r}; it has {', '.join(sorted(known))}"
            )
        if isinstance(value, Mapping) and dataclasses.is_dataclass(getattr(settings, name)):
            value = changed(_knowing(settings, name, value), value)
        values[name] = value
    return dataclasses.replace(settings, **values)  # type: ignore[type-var]


def settings_from(kind: type[Settings], content: Mapping[str, Any]) -> Settings:
    """Read settings from JSON; a later setting has the value it had before it came.

    Args:
        kind: Class of the settings.
        content: As of :func:`as_json`.
    """
    before = {
        item.name: item.metadata["before"]
        for item in dataclasses.fields(kind)  # type: ignore[arg-type]
        if "before" in item.metadata
    }
    return changed(kind(), {**before, **content})


def as_json(settings: Any) -> dict[str, Any]:
    """Return settings as nested dictionaries of plain values.

    A setting marked ``ADDED`` is named only where it is not as in earlier records ("before", else default).
    """
    values = {item: getattr(settings, item.name) for item in dataclasses.fields(settings)}
    return {
        item.name: as_json(value) if dataclasses.is_dataclass(value) else value
        for item, value in values.items()
        if not ADDED.items() <= item.metadata.items() or value != item.metadata.get("before", item.default)
    }


def _knowing(settings: Any, name: str, changes: Mapping[str, Any]) -> Any:
    """Return the settings in a field, or the defaults of its other kind that knows all of ``changes``."""
    present = getattr(settings, name)
    kinds: list[Any] = [type(present), *typing.get_args(_hints(type(settings))[name])]  # type: ignore[arg-type]
    found = next((kind for kind in kinds if changes.keys() <= _hints(kind).keys()), kinds[0])
    return present if found is kinds[0] else found()


def read_changes(pairs: Iterable[str]) -> dict[str, Any]:
    """Read ``name=value`` texts, dotted names for nested settings, as changes of the settings' own types.

    >>> read_changes(["training.epochs=5", "surrogate.align=no"])
    {'training': {'epochs': 5}, 'surrogate': {'align': False}}

    Raises:
        InputError: A value does not fit, or names several settings. An unknown name stays, for ``changed``.
    """
    return _typed(nested(read_pairs(pairs)), _hints(RunSettings), "")


def _typed(content: Mapping[str, Any], hints: Mapping[str, Any], place: str) -> dict[str, Any]:
    typed = {}
    for name, value in content.items():
        hint = hints.get(name)
        parts = [kind for kind in typing.get_args(hint) or (hint,) if dataclasses.is_dataclass(kind)]
        if isinstance(value, Mapping):
            known = {key: kind for part in parts for key, kind in _hints(part).items()}  # type: ignore[arg-type]
            typed[name] = _typed(value, known, f"{place}{name}.")
        elif parts:
            raise InputError(f"{place}{name} holds several settings; name one of them, as {name}.NAME=VALUE")
        else:
            typed[name] = value if hint is None else typed_value(f"setting {place}{name}", hint, value)
    return typed
