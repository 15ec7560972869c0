"""``relif audit``: from a table of scores to a verdict, on files; no torch needed.

The verbs end with status 0 for done or passed, 1 for failed (``check``), 3 for undecided, 2 for bad input.
"""

import contextlib
import json
import math
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from relif_core.errors import InputError
from relif_core.files import read_text, write_file

if TYPE_CHECKING:
    import polars

    from relif_core.audit import AuditResult


class _VerbOrFile(TyperGroup):
    """A group whose first word is a verb, or else a table that is audited at once."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["file", *args]
        return super().parse_args(ctx, args)


audit_app = typer.Typer(
    cls=_VerbOrFile,
    no_args_is_help=True,
    help=(
        "Audit scores of any model: calibrate a ruler, run, compare, draw the curve, check limits, merge"
        " sites. `relif audit FILE --tolerance δ` audits a table at once; ./run is a file called run."
    ),
)

Table = Annotated[
    Path,
    typer.Argument(
        help=(
            "CSV, TSV, Parquet or JSON lines (- for CSV on standard input): one column per task, or columns"
            " task and score."
        )
    ),
]
Task = Annotated[
    list[str] | None, typer.Option(help="A score column, repeatable; chosen and told if not given.")
]
Subject = Annotated[
    str | None, typer.Option(help="Column of subject ids; without one every row is a subject of its own.")
]
Group = Annotated[
    str | None, typer.Option(help="Column of group labels: every group is audited by itself too.")
]
Weight = Annotated[str | None, typer.Option(help="Column of sample weights.")]
Level = Annotated[float, typer.Option(help="Level of the intervals.")]
Cards = Annotated[
    list[Path] | None, typer.Option(help="Write the audit card: .json, .md or .html (repeatable).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="File to write.")]
AuditFile = Annotated[Path, typer.Argument(help="Audit file of `run`.")]


@audit_app.command(hidden=True)
def file(
    scores: Table,
    tolerance: Annotated[float, typer.Option(help="The fixed tolerance δ for every task pair.")],
    task: Task = None,
    subject: Subject = None,
    group: Group = None,
    weight: Weight = None,
    versus: Annotated[
        Path | None, typer.Option(help="A second table of the same samples: the paired difference.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="exact, or sampled as the released implementation does.")
    ] = "exact",
    pair_seed: Annotated[int, typer.Option(help="Seed of the sampled protocol.")] = 42,
    level: Level = 0.95,
    tolerance_source: Annotated[
        str | None, typer.Option(help="Which data and rule set the tolerance; goes on the card.")
    ] = None,
    card: Cards = None,
    as_json: AsJson = False,
) -> None:
    """Audit a table of scores at a fixed tolerance."""
    from relif_core.audit import audit as audit_scores
    from relif_core.audit import audit_card, compare
    from relif_core.audit.card import interval_text
    from relif_core.cli.score_tables import read_score_table

    apart([scores, versus], [], card)

    def audited(path: Path) -> "AuditResult":
        table = read_score_table(path, task or (), subject, group, weight)
        for note in table.notes:
            typer.echo(f"{path}: {note}", err=True)
        return audit_scores(
            table.scores, tolerance, subjects=table.subjects, groups=table.groups, weights=table.weights,
            protocol=protocol, pair_seed=pair_seed, context={"tolerance_source": tolerance_source},
        )  # fmt: skip

    result = audited(scores)
    content, lines = result.as_dict(), _result_lines(result, level)
    if versus is not None:
        found = compare(result, audited(versus), level)
        content = {"result": content, "difference": vars(found)}
        how = f"paired by {'subject' if subject else 'row, in file order'}" if found.paired else "not paired"
        ends = interval_text(found.interval, "+.4f")
        lines.append(f"Bias minus {versus.name}: {found.difference:+.4f} ({ends}; {how})")
    for path in card or []:
        audit_card(result, model=scores.name, level=level).save(path)
    _tell(as_json, content, lines)


@audit_app.command()
def calibrate(
    reference: Annotated[Path, typer.Argument(help="Table of the reference model's outputs and embeddings.")],
    embedding: Annotated[
        list[str], typer.Option(help="Embedding columns: a name or a pattern such as 'z*' (repeatable).")
    ],
    output: Output,
    score: Annotated[
        list[str] | None,
        typer.Option(
            help=(
                "TASK=RULE: sigmoid, identity, quantile:.1:.9, max_softmax:PATTERN, max_sigmoid:PATTERN"
                " (repeatable)."
            )
        ),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="A column that is a score already (repeatable).")
    ] = None,
    subject: Subject = None,
    alpha: Annotated[float, typer.Option(help="Chance that a new pair's distance exceeds δ.")] = 0.1,
    matchings: Annotated[int, typer.Option(help="Random matchings that show the spread of δ.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the matching that sets δ.")] = 0,
    weight: Annotated[str | None, typer.Option(hidden=True)] = None,
    as_json: AsJson = False,
) -> None:
    """Fit the score map and the tolerance on a reference model, and write both as a ruler."""
    from relif_core.audit import ScoreMap
    from relif_core.audit import calibrate as make_ruler
    from relif_core.audit.pools import checked_scores
    from relif_core.audit.tolerance import refuse_weights
    from relif_core.cli.score_tables import no_column, read_table

    refuse_weights(weight)
    apart([reference], [output])
    rules: dict[str, Any] = dict.fromkeys(task or [], "identity")
    for text in score or []:
        name, equals, rule = text.partition("=")
        if not equals or not name or name in rules:
            raise InputError(f"--score {text!r}: write TASK=RULE, each task once")
        kind, *arguments = rule.split(":", 1 if rule.startswith("max_") else -1)  # Names may hold colons.
        rules[name] = (kind, *arguments)
    if len(rules) < 2:
        raise InputError("a ruler is for at least two tasks; name them with --score or --task")
    table = read_table(reference)
    if subject is not None and subject not in table.columns:
        raise no_column(reference, subject, table)
    embeddings, score_map = _embeddings(reference, table, embedding), ScoreMap(**rules).fit(table)
    checked_scores(score_map.scores(table))  # The reference has every task of the ruler, in [0, 1].
    ruler = make_ruler(
        embeddings, score_map, subject=None if subject is None else table.get_column(subject),
        alpha=alpha, matchings=matchings, seed=seed, reference=reference.name,
    )  # fmt: skip
    text = ruler.to_json()
    write_file(output, text + "\n")
    _tell(as_json, json.loads(text), [f"{output}: δ = {ruler.tolerance:.4f}, {ruler.describe()}"])


@audit_app.command()
def run(
    outputs: Annotated[Path, typer.Argument(help="Table of the audited model's outputs.")],
    ruler: Annotated[Path, typer.Option(help="Ruler made by `relif audit calibrate`.")],
    subject: Subject = None,
    group: Group = None,
    weight: Weight = None,
    meta: Annotated[
        Path | None,
        typer.Option(help="TOML file: name, dataset, split, and tables utility and controller for the card."),
    ] = None,
    level: Level = 0.95,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Audit file to write (.json).")
    ] = None,
    keep_influences: Annotated[
        bool,
        typer.Option(
            help="Keep one row per subject in the audit file, so that `compare` can pair by subject."
        ),
    ] = False,
    embedding: Annotated[
        list[str] | None,
        typer.Option(help="The model's own embedding columns: its induced tolerances, for --certificate."),
    ] = None,
    histogram: Annotated[
        Path | None, typer.Option(help="Write counts (and weights) per bin and task, which `merge` adds up.")
    ] = None,
    bins: Annotated[
        int | None, typer.Option(help="Bins of the histogram, a power of two.", show_default="4096")
    ] = None,
    hide: Annotated[
        int | None, typer.Option(help="Hide histogram cells of fewer samples; with --weight at least 3.")
    ] = None,
    merged: Annotated[
        Path | None, typer.Option(help="Histogram of all sites, made by `merge -o`: needed for --sums.")
    ] = None,
    sums: Annotated[
        Path | None,
        typer.Option(
            help="Write this site's influence sums, which give `merge` errors clustered by subject."
        ),
    ] = None,
    card: Cards = None,
    as_json: AsJson = False,
) -> None:
    """Audit a model's outputs with a ruler; write the audit file and the card."""
    from relif_core.audit import Audit, HistogramSketch, Ruler
    from relif_core.audit.card import rendered
    from relif_core.audit.sketch import BINS
    from relif_core.cli.score_tables import read_table

    if (merged is None) != (sums is None):
        raise InputError("--sums and --merged belong together: the sums are of the histogram of all sites")
    for option, idle, place in (
        ("--bins", bins is not None and histogram is None, "--histogram"),
        ("--hide", hide is not None and histogram is None, "--histogram"),
        ("--keep-influences", keep_influences and output is None, "--output"),
    ):
        if idle:
            raise InputError(f"{option} is about the file of {place}; name it, or leave {option} out")
    apart([outputs, ruler, meta, merged], [output, histogram, sums], card)
    if keep_influences and subject is None:
        typer.echo(f"{outputs}: no --subject: `compare` will pair the rows, in file order", err=True)
    facts = _facts(meta)
    measure = Ruler.load(ruler)
    table = read_table(outputs)
    scores = measure.scores(table)
    found = Audit(
        scores, measure, subject=range(len(table)) if subject is None else subject, group=group,
        weight=weight, name=facts.get("name", outputs.stem), dataset=facts.get("dataset"),
        split=facts.get("split"), level=level,
    )  # fmt: skip
    if embedding:
        found.induce(dict.fromkeys(scores, _embeddings(outputs, table, embedding)))
    texts = {}
    if histogram is not None:
        sketch = found.histogram(BINS if bins is None else bins)
        texts[histogram] = (sketch if hide is None else sketch.hide(hide)).to_json() + "\n"
    if merged is not None and sums is not None:
        texts[sums] = found.influence_sums(HistogramSketch.load(merged)).to_json() + "\n"
    if card:
        shown = found.card(utility=facts.get("utility"), controller=facts.get("controller"))
        texts |= {path: rendered(shown, path) for path in card}
    if output is not None:
        found.save(output, include_influences=keep_influences)
    for path, text in texts.items():
        write_file(path, text)
    _tell(as_json, found.result.as_dict(), found.summary().splitlines())


@audit_app.command()
def compare(
    audits: Annotated[
        list[Path], typer.Argument(help="Audit files of `run`: the first minus each other one.")
    ],
    certificate: Annotated[
        bool,
        typer.Option("--certificate", help="Tell whether each order survives the models' own tolerances."),
    ] = False,
    adjust: Annotated[str, typer.Option(help="holm, or none.")] = "holm",
    as_json: AsJson = False,
) -> None:
    """Compare models that were audited with one ruler."""
    from relif_core.audit import Audit
    from relif_core.audit.card import interval_text

    if len(audits) < 2:
        raise InputError("name two audit files or more")
    first, *others = map(Audit.load, audits)
    found = first.compare(*others, adjust=adjust)  # type: ignore[arg-type]
    content, lines = [], []
    for one, other in zip(found, others, strict=True):
        order, own = first.certificate(other) if certificate else None, one.comparison
        content.append(
            {"a": one.a, "b": one.b, **vars(own), "adjusted_p_value": one.adjusted_p_value,
             "certificate": None if order is None else vars(order)}
        )  # fmt: skip
        ends, kind = interval_text(own.interval, "+.4f"), "paired" if own.paired else "not paired"
        bias = f"{one.a} minus {one.b}: Bias {own.difference:+.4f} ({ends}; {kind})"
        lines.append(f"{bias}, adjusted p {one.adjusted_p_value:.3g}")
        if order is not None:
            word = "certified" if order.certified else "not certified (which does not mean that it flips)"
            lines.append(
                f"  order under own tolerances: {word}; margin {order.margin:.4f}, budget {order.budget:.4f}"
            )
    _tell(as_json, content, lines)


@audit_app.command()
def curve(
    audit_file: AuditFile,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="SVG file to write.")] = None,
    as_json: AsJson = False,
) -> None:
    """Draw or print Bias and violation rate over the tolerance."""
    from relif_core.audit import Audit
    from relif_core.audit.card import curve_svg

    apart([audit_file], [output])
    found = Audit.load(audit_file)
    line = found.curve().lists()
    if output is not None:
        if output.suffix != ".svg":
            raise InputError(f"{output}: a curve is written as .svg; use --json for numbers")
        write_file(output, curve_svg(**line, held=found.ruler.tolerance) + "\n")
    rows = zip(*line.values(), strict=True) if output is None else ()
    _tell(
        as_json, line, (f"δ {at:.2f}  Bias {bias:.4f}  violation rate {rate:.4f}" for at, bias, rate in rows)
    )


@audit_app.command()
def check(
    audit_file: AuditFile,
    bias_below: Annotated[float | None, typer.Option(help="Limit of Bias.")] = None,
    rate_below: Annotated[float | None, typer.Option(help="Limit of the violation rate.")] = None,
    use: Annotated[
        str, typer.Option(help="upper: the interval decides; estimate: the estimate alone.")
    ] = "upper",
    worst_group: Annotated[bool, typer.Option("--worst-group", help="Every group must pass too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Hold an audit against limits: status 0 passed, 1 shown to fail, 3 undecided, 2 bad input."""
    from relif_core.audit import Audit

    state, lines = Audit.load(audit_file).check(
        bias_below=bias_below,
        rate_below=rate_below,
        use=use,  # type: ignore[arg-type]
        worst_group=worst_group,
    )
    try:
        _tell(as_json, {"verdict": state, "parts": lines}, [*lines, f"verdict: {state}"])
    except BrokenPipeError:  # A reader that left changes no verdict.
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.close()  # or the interpreter would flush it at its end, and fail
    raise typer.Exit({"pass": 0, "fail": 1, "undecided": 3}[state])


@audit_app.command()
def merge(
    histograms: Annotated[
        list[Path], typer.Argument(help="Histogram files of `run --histogram`, one per site.")
    ],
    ruler: Annotated[Path | None, typer.Option(help="Refuse histograms made with another ruler.")] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Another tolerance than that of the ruler that made them.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Merged histogram to write.")] = None,
    sums: Annotated[
        list[Path] | None,
        typer.Option(help="Influence sums of `run --sums`, one file of every site (repeatable)."),
    ] = None,
    by_site: Annotated[
        bool, typer.Option("--by-site", help="Take whole sites as the independent units.")
    ] = False,
    level: Level = 0.95,
    as_json: AsJson = False,
) -> None:
    """Audit several sites from their histograms, without any score leaving a site."""
    from functools import reduce
    from itertools import pairwise
    from operator import add

    from relif_core.audit import HistogramSketch, InfluenceSums, Ruler
    from relif_core.audit.card import interval_text
    from relif_core.audit.plain import picked
    from relif_core.audit.result import KINDS
    from relif_core.audit.uncertainty import checked_level

    if ruler is not None and tolerance is not None:
        raise InputError("name either --ruler or --tolerance")
    if by_site and sums:
        raise InputError("name either --sums or --by-site")
    apart([*histograms, *(sums or []), ruler], [output])
    for paths in (histograms, sums or []):
        places = [path.resolve() for path in paths]
        if twice := next((path for path in paths if places.count(path.resolve()) > 1), None):
            raise InputError(f"{twice} is named twice; every site counts once")
    # Weights add up to the same bits in one order alone, whichever the files are named in.
    sketches = sorted((HistogramSketch.load(path) for path in histograms), key=HistogramSketch.to_json)
    merged = reduce(add, sketches)
    if any(one.to_json() == other.to_json() for one, other in pairwise(sketches)):
        typer.echo("two of the histograms are equal in every cell: is one site there twice?", err=True)
    held = merged.tolerance if tolerance is None else tolerance
    if ruler is not None:
        measure = Ruler.load(ruler)
        held = measure.tolerance
        if merged.score_definition != measure.score_definition or merged.tolerance not in (None, held):
            raise InputError(f"{ruler}: the histograms were made with another ruler; use that one")
    errors = None
    if by_site:
        errors = merged.site_sums(sketches, held)
    elif sums:
        if len(sums) != len(histograms):
            raise InputError(f"{len(histograms)} sites, but sums of {len(sums)}; name those of every site")
        errors = reduce(add, [InfluenceSums.load(path) for path in sums])
    found = merged.audit(held, errors)
    checked_level(level)
    if output is not None:
        write_file(output, merged.to_json() + "\n")
    content: dict[str, Any] = {"sites": len(histograms), **picked(found, "samples", "hidden")}
    content["tolerance"] = held
    lines = [f"{len(histograms)} sites, {sum(found.samples.values()):,} scores, δ = {held:.4f}"]
    for kind, title in zip(KINDS, ("Bias          ", "Violation rate"), strict=True):
        value, (least, most) = getattr(found, kind), getattr(found, f"{kind}_range")
        own = found.interval(kind, level)
        content |= {kind: value, f"{kind}_range": (least, most), f"{kind}_interval": own}
        told = "" if math.isnan(own[0]) else f"{100 * level:g} % interval "
        lines.append(f"{title} {value:.4f}, proven {least:.4f} to {most:.4f}; {told}{interval_text(own)}")
    content |= {"level": level, "clustered_by": found.clustered_by, "clusters": found.clusters}
    lines.append(
        "Intervals take every score as independent; subjects with several scores make them too narrow."
        if errors is None
        else f"Intervals from {found.clusters:,} independent {found.clustered_by}s."
    )
    _tell(as_json, content, lines)


def _facts(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        facts = tomllib.loads(read_text(path).removeprefix("\ufeff"))  # as some editors begin a file
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is no TOML: {error}") from error
    known = {"name": str, "dataset": str, "split": str, "utility": dict, "controller": dict}
    for key, value in facts.items():
        if key not in known or not isinstance(value, known[key]):
            raise InputError(
                f"{path}: {key!r} is not understood; a card takes the texts name, dataset, split and the"
                " tables utility, controller"
            )
    return facts


def _embeddings(path: Path, table: "polars.DataFrame", patterns: Sequence[str]) -> Any:
    """Return the columns [n, D] that any of the names or patterns names; each has to name one."""
    import fnmatch

    import numpy as np

    from relif_core.cli.score_tables import no_column

    wanted: set[str] = set()
    for pattern in patterns:
        found = [pattern] if pattern in table.columns else fnmatch.filter(table.columns, pattern)
        if not found:
            raise no_column(path, pattern, table)
        wanted.update(found)
    names = [name for name in table.columns if name in wanted]
    for name in names:
        if not table.get_column(name).dtype.is_numeric() or table.get_column(name).null_count():
            raise InputError(f"{path}: embedding column {name!r} holds cells that are no numbers")
    return np.ascontiguousarray(table.select(names).to_numpy(), dtype=np.float64)


def apart(
    inputs: Iterable[Path | None], outputs: Iterable[Path | None], cards: Sequence[Path] | None = None
) -> None:
    """Refuse a folder as an output, a file that is read or written as something else too, and other cards."""
    from relif_core.audit.card import checked_card_path

    for path in cards or ():
        checked_card_path(path)
    taken = {path.resolve() for path in inputs if path is not None}
    for path in (path for path in (*outputs, *(cards or ())) if path is not None):
        if path.is_dir():
            raise InputError(f"{path} is a folder; name a file")
        if path.resolve() in taken:
            raise InputError(
                f"{path} would be overwritten: this command reads or writes it as something else; name"
                " another file"
            )
        taken.add(path.resolve())


def _tell(as_json: bool, content: Any, lines: Iterable[str]) -> None:
    """Print the content as JSON, or the lines."""
    from relif_core.audit.plain import plain

    if as_json:
        lines = [json.dumps(plain(content), ensure_ascii=False, indent=1, default=str)]
    for line in lines:
        typer.echo(line)


def _result_lines(result: "AuditResult", level: float) -> list[str]:
    """Return the result in a few aligned lines: overall, per task pair, then per group."""
    lines = _audit_lines(result, level)
    for name, part in result.groups.items():
        lines += [f"group {name}:", *(f"  {line}" for line in _audit_lines(part, level))]
    lines += [f"group {name}: left out, {reason}" for name, reason in result.groups_left_out.items()]
    return [*lines, *(f"note: {note}" for note in result.notes)]


def _audit_lines(result: "AuditResult", level: float) -> list[str]:
    from relif_core.audit.card import interval_text

    width = max(len(" – ".join(row.tasks)) for row in result.per_pair)
    ends, rate_ends = result.bias_interval(level), result.violation_rate_interval(level)
    units = f"{result.clusters:,} independent {result.clustered_by}s"
    lines = [
        f"Bias           {result.bias:.4f} ({interval_text(ends)})",
        f"Violation rate {result.violation_rate:.4f} ({interval_text(rate_ends)})",
        f"{100 * level:g}% intervals from {units}; {result.protocol} protocol",
    ]
    for row in result.per_pair:
        pair, found = " – ".join(row.tasks).ljust(width), f"violation rate {row.violation_rate:.4f}"
        lines.append(f"{pair}  δ {row.tolerance:.4f}  Bias {row.bias:.4f}  {found}")
    return lines
