"""The seventeen channels of the benchmark tasks, and where the eICU tables hold them.

Channels, units and the values assumed before any measurement follow Harutyunyan et al., *Multitask learning
and benchmarking with clinical time series data*, Scientific Data 6:96, 2019, its spelling of the coma scale
included. Coma scales and capillary refill are one numeric column each (the score; 0 normal, 1 delayed),
because eICU charts scores and not the category texts of MIMIC-III.
"""

from dataclasses import dataclass, field
from typing import Literal

from relif_core.tensors.clinical import Channel

STAY = "patientunitstayid"
Conversion = Literal["number", "fahrenheit", "percent", "pounds", "score", "refill"]


@dataclass(frozen=True)
class Measured:
    """A channel and the closed range outside which, or between whole numbers, a value is an artefact."""

    name: str
    unit: str
    normal: float
    low: float
    high: float
    whole: bool = False

    def channel(self) -> Channel:
        """Return the channel of the tensor format, with one value column."""
        return Channel(self.name, self.unit, (self.name,), self.normal)


CHANNELS: tuple[Measured, ...] = (
    Measured("Capillary refill rate", "0 = normal, 1 = delayed", 0.0, 0, 1, whole=True),
    Measured("Diastolic blood pressure", "mmHg", 59.0, 1, 300),
    Measured("Fraction inspired oxygen", "fraction", 0.21, 0.21, 1),
    Measured("Glascow coma scale eye opening", "points 1-4", 4.0, 1, 4, whole=True),
    Measured("Glascow coma scale motor response", "points 1-6", 6.0, 1, 6, whole=True),
    Measured("Glascow coma scale total", "points 3-15", 15.0, 3, 15, whole=True),
    Measured("Glascow coma scale verbal response", "points 1-5", 5.0, 1, 5, whole=True),
    Measured("Glucose", "mg/dL", 128.0, 1, 2500),
    Measured("Heart Rate", "/min", 86.0, 1, 350),
    Measured("Height", "cm", 170.0, 50, 250),
    Measured("Mean blood pressure", "mmHg", 77.0, 1, 350),
    Measured("Oxygen saturation", "%", 98.0, 20, 100),
    Measured("Respiratory rate", "/min", 19.0, 1, 120),
    Measured("Systolic blood pressure", "mmHg", 118.0, 1, 350),
    Measured("Temperature", "degrees Celsius", 36.6, 25, 45),
    Measured("Weight", "kg", 81.0, 20, 500),
    Measured("pH", "pH", 7.4, 6.3, 8.5),
)
INDEX = {channel.name: index for index, channel in enumerate(CHANNELS)}

DIASTOLIC, SYSTOLIC, MEAN = "Diastolic blood pressure", "Systolic blood pressure", "Mean blood pressure"
EYE, MOTOR = "Glascow coma scale eye opening", "Glascow coma scale motor response"
VERBAL, TOTAL = "Glascow coma scale verbal response", "Glascow coma scale total"
OXYGEN, SATURATION, RESPIRATION = "Fraction inspired oxygen", "Oxygen saturation", "Respiratory rate"


@dataclass(frozen=True)
class Item:
    """A column or label of a table: its channel, how its number is read, unit texts with their factors.

    ``units`` None means that the table states no unit or that the quantity has none.
    """

    channel: str
    conversion: Conversion = "number"
    units: dict[str, float] | None = None


@dataclass(frozen=True)
class EventTable:
    """A table of measurements: wide with one column per item, or long.

    Attributes:
        time: Column of minutes since admission to the unit.
        labels: Long: columns whose stripped, lower-case texts name the item.
        value: Long: the column of values; None: wide.
    """

    name: str
    time: str
    items: dict[tuple[str, ...], Item]
    labels: tuple[str, ...] = ()
    value: str | None = None
    unit: str | None = None
    ignored: frozenset[str] = field(default_factory=frozenset)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        values = (*self.labels, self.value) if self.value else tuple(label for (label,) in self.items)
        return (STAY, self.time, *values, *([self.unit] if self.unit else []))

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels that this table feeds, in channel order."""
        return tuple(sorted({item.channel for item in self.items.values()}, key=INDEX.__getitem__))


_PERCENT = {"%": 1.0, "": 1.0}
_GLUCOSE = {"mg/dl": 1.0, "": 1.0, "mmol/l": 18.0156}
_GCS = "notes/progress notes/physical exam/physical exam/neurologic/gcs/"

# In order of trust: where two tables give a channel's value at the same minute, the later table wins.
TABLES: tuple[EventTable, ...] = (
    EventTable(
        "vitalPeriodic",
        "observationoffset",
        {
            ("heartrate",): Item("Heart Rate"),
            ("sao2",): Item(SATURATION),
            ("respiration",): Item(RESPIRATION),
            ("temperature",): Item("Temperature", "fahrenheit"),
            ("systemicsystolic",): Item(SYSTOLIC),
            ("systemicdiastolic",): Item(DIASTOLIC),
            ("systemicmean",): Item(MEAN),
        },
    ),
    EventTable(
        "vitalAperiodic",
        "observationoffset",
        {
            ("noninvasivesystolic",): Item(SYSTOLIC),
            ("noninvasivediastolic",): Item(DIASTOLIC),
            ("noninvasivemean",): Item(MEAN),
        },
    ),
    EventTable(
        "physicalExam",
        "physicalexamoffset",
        {
            **{(f"{_GCS}eyes score/{score}",): Item(EYE, "score") for score in range(1, 5)},
            **{(f"{_GCS}motor score/{score}",): Item(MOTOR, "score") for score in range(1, 7)},
            **{(f"{_GCS}verbal score/{score}",): Item(VERBAL, "score") for score in range(1, 6)},
            **{(f"{_GCS}{score}",): Item(TOTAL, "score") for score in range(3, 16)},
        },
        labels=("physicalexampath",),
        value="physicalexamvalue",
    ),
    EventTable(
        "intakeOutput",
        "intakeoutputoffset",
        {
            ("bodyweight (kg)",): Item("Weight"),
            ("bodyweight (lb)",): Item("Weight", "pounds"),
        },
        labels=("celllabel",),
        value="cellvaluenumeric",
    ),
    EventTable(
        "nurseAssessment",
        "nurseassessoffset",
        {("capillary refill", "capillary refill"): Item("Capillary refill rate", "refill")},
        labels=("celllabel", "cellattribute"),
        value="cellattributevalue",
        # The same cell also says on which limb the refill was judged.
        ignored=frozenset({"hands", "feet"}),
    ),
    EventTable(
        "respiratoryCharting",
        "respchartoffset",
        {
            ("fio2",): Item(OXYGEN, "percent"),
            ("fio2 (%)",): Item(OXYGEN, "percent"),
            ("o2 percentage",): Item(OXYGEN, "percent"),
            ("set fraction of inspired oxygen (fio2)",): Item(OXYGEN, "percent"),
            ("rr (patient)",): Item(RESPIRATION),
            ("total rr",): Item(RESPIRATION),
            ("sao2",): Item(SATURATION),
            ("adult con pt/vent spo2",): Item(SATURATION),
            ("niv pt/vent spo2_5",): Item(SATURATION),
        },
        labels=("respchartvaluelabel",),
        value="respchartvalue",
    ),
    EventTable(
        "lab",
        "labresultoffset",
        {
            ("glucose",): Item("Glucose", units=_GLUCOSE),
            ("bedside glucose",): Item("Glucose", units=_GLUCOSE),
            ("ph",): Item("pH"),
            ("fio2",): Item(OXYGEN, "percent", units=_PERCENT),
            ("o2 sat (%)",): Item(SATURATION, units=_PERCENT),
        },
        labels=("labname",),
        value="labresult",
        unit="labmeasurenamesystem",
    ),
    EventTable(
        "nurseCharting",
        "nursingchartoffset",
        {
            ("heart rate", "heart rate"): Item("Heart Rate"),
            ("respiratory rate", "respiratory rate"): Item(RESPIRATION),
            ("o2 saturation", "o2 saturation"): Item(SATURATION),
            ("non-invasive bp", "non-invasive bp systolic"): Item(SYSTOLIC),
            ("non-invasive bp", "non-invasive bp diastolic"): Item(DIASTOLIC),
            ("non-invasive bp", "non-invasive bp mean"): Item(MEAN),
            ("invasive bp", "invasive bp systolic"): Item(SYSTOLIC),
            ("invasive bp", "invasive bp diastolic"): Item(DIASTOLIC),
            ("invasive bp", "invasive bp mean"): Item(MEAN),
            ("map (mmhg)", "value"): Item(MEAN),
            ("arterial line map (mmhg)", "value"): Item(MEAN),
            ("temperature", "temperature (c)"): Item("Temperature", "fahrenheit"),
            ("temperature", "temperature (f)"): Item("Temperature", "fahrenheit"),
            ("bedside glucose", "bedside glucose"): Item("Glucose"),
            ("glasgow coma score", "eyes"): Item(EYE, "score"),
            ("glasgow coma score", "motor"): Item(MOTOR, "score"),
            ("glasgow coma score", "verbal"): Item(VERBAL, "score"),
            ("glasgow coma score", "gcs total"): Item(TOTAL, "score"),
            ("score (glasgow coma scale)", "value"): Item(TOTAL, "score"),
        },
        labels=("nursingchartcelltypevallabel", "nursingchartcelltypevalname"),
        value="nursingchartvalue",
    ),
)

# Columns of `patient`, taken as measured on admission; they never depend on the discharge.
ADMISSION_COLUMNS = {"admissionheight": "Height", "admissionweight": "Weight"}


def rules_of_reading() -> tuple[str, ...]:
    """Return, for the manifest, how numbers are read and which are left out."""
    plain = ("mmHg", "mg/dL", "/min", "cm", "%", "degrees Celsius", "kg")
    ranges = "; ".join(
        f"{channel.name} {channel.low:g} to {channel.high:g}"
        + (f" {channel.unit}" if channel.unit in plain else "")
        for channel in CHANNELS
    )
    return (
        (
            "Temperatures of 79 and above are Fahrenheit and are converted. Inspired oxygen above 1 is a"
            " percentage. Body weights labelled lb are converted. A trailing % is dropped."
        ),
        f"Values outside these ranges are artefacts and left out: {ranges}.",
        (
            "The last value of an hour counts; at one minute the more trusted table does (in ascending"
            f" order: {', '.join(table.name for table in TABLES)}), then the greatest value."
        ),
        (
            "Blood pressure mixes invasive and non-invasive readings; oxygen saturation mixes pulse oximetry"
            " and blood gases; glucose mixes laboratory and bedside values."
        ),
    )
