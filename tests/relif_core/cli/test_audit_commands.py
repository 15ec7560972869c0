"""``relif audit`` from a reference model's table to a verdict: what each verb prints and writes."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import polars as pl
import pytest

from relif_core import cli
from relif_core.audit import CARD_SCHEMA, Audit, HistogramSketch, Ruler, ScoreMap

Shell = Callable[..., str]


def outputs(seed: int, shift: float = 0.0, people: int = 120) -> pl.DataFrame:
    """Two rows a person; one latent severity moves logits, depth and embedding."""
    generator = np.random.default_rng(seed)
    severity = np.repeat(generator.normal(size=people), 2)
    noise = generator.normal(size=(8, 2 * people))
    return pl.DataFrame(
        {
            "patient": [f"p{k // 2}" for k in range(2 * people)],
            "sex": ["F" if k // 2 % 2 else "M" for k in range(2 * people)],
            "mortality": 1.2 * severity - 1 + shift,
            "los_short": noise[0],
            "los_long": noise[1] + severity,
            "depth": np.exp(severity + 0.3 * noise[2] + shift),
            **{f"z{k}": noise[3 + k] + severity for k in range(4)},
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ruler and two audits, made by the commands."""
    where = tmp_path_factory.mktemp("audits")
    outputs(1).write_parquet(where / "reference.parquet")
    outputs(2).write_parquet(where / "erm.parquet")
    outputs(2, 0.6).write_csv(where / "relif.csv")
    (where / "card.toml").write_text(
        'name = "net v1"\ndataset = "mine 1.0"\nsplit = "test"\n[utility]\nWorst = 0.8\n'
    )
    relif = [sys.executable, "-m", "relif_core.cli", "audit"]
    commands = [
        ["calibrate", "reference.parquet", "--embedding", "z*", "--score", "mortality=sigmoid",
         "--score", "stay=max_softmax:los_*", "--score", "depth=quantile:.1:.9", "--subject", "patient",
         "--alpha", "0.4", "--matchings", "20", "-o", "ruler.json"],
        *(
            ["run", table, "--ruler", "ruler.json", "--subject", "patient", "--group", "sex",
             "--embedding", "z*", "--keep-influences",
             "--histogram", f"{name}.hist.json", "-o", f"{name}.audit.json"]
            for name, table in (("erm", "erm.parquet"), ("relif", "relif.csv"))
        ),
    ]  # fmt: skip
    for command in commands:
        done = subprocess.run([*relif, *command], cwd=where, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return where


def test_the_ruler_carries_map_tolerance_and_spread(folder: Path) -> None:
    ruler = Ruler.from_json((folder / "ruler.json").read_text())
    assert ruler.pairs == 60
    assert ruler.spread["low"] <= ruler.tolerance <= ruler.spread["high"]
    assert ruler.score_map.rules["depth"]["range"] is not None
    scores = ruler.scores(outputs(1))
    assert np.mean(scores["depth"] == 0) == pytest.approx(0.1, abs=0.01)


def test_an_audit_becomes_a_card_in_three_forms(folder: Path, shell: Shell) -> None:
    cards = [folder / f"card.{kind}" for kind in ("json", "md", "html")]
    output = shell(
        "audit", "run", folder / "erm.parquet", "--ruler", folder / "ruler.json", "--subject", "patient",
        "--meta", folder / "card.toml", *(word for path in cards for word in ("--card", path)),
    )  # fmt: skip
    assert output.startswith("net v1: Bias")
    card = json.loads(cards[0].read_text())
    jsonschema.validate(card, CARD_SCHEMA)
    assert card["audited"]["dataset"] == "mine 1.0"
    assert card["utility"] == {"Worst": 0.8}
    assert card["tolerance"]["ruler"]["sha256"] == json.loads((folder / "ruler.json").read_text())["sha256"]
    page, text = cards[2].read_text(), cards[1].read_text()
    assert "<svg" in page
    assert "Spread over matchings" in page
    assert "Spread over matchings" in text


def test_models_are_compared_by_subject_and_certified(folder: Path, shell: Shell) -> None:
    files = folder / "erm.audit.json", folder / "relif.audit.json"
    output = shell("audit", "compare", *files, "--certificate")
    assert "erm minus relif: Bias" in output
    assert "paired), adjusted p" in output
    assert "order under own tolerances" in output
    (row,) = json.loads(shell("audit", "compare", *files, "--json"))
    first, second = map(Audit.load, files)
    assert row["difference"] == first.result.bias - second.result.bias
    assert row["adjusted_p_value"] == row["p_value"]


def test_another_ruler_is_refused(folder: Path, shell: Shell, tmp_path: Path) -> None:
    content = json.loads((folder / "relif.audit.json").read_text())
    ruler = Ruler.from_json(json.dumps(content["ruler"]))
    other = Ruler(**{**vars(ruler), "seed": 1})
    content["ruler"] = json.loads(other.to_json())
    (tmp_path / "other.json").write_text(json.dumps(content))
    output = shell("audit", "compare", folder / "erm.audit.json", tmp_path / "other.json", code=2)
    assert "measured with different rulers" in output
    content["ruler"]["tolerance"] = 0.9
    (tmp_path / "changed.json").write_text(json.dumps(content["ruler"]))
    assert "was changed after it was made" in shell(
        "audit", "run", folder / "erm.parquet", "--ruler", tmp_path / "changed.json", code=2
    )


def test_a_check_passes_fails_or_stays_undecided(folder: Path, shell: Shell) -> None:
    path = folder / "erm.audit.json"
    low, high = Audit.load(path).result.bias_interval()
    assert "verdict: pass" in shell("audit", "check", path, "--bias-below", high + 1e-6)
    assert "verdict: fail" in shell("audit", "check", path, "--bias-below", low - 1e-6, code=1)
    assert "verdict: undecided" in shell("audit", "check", path, "--bias-below", (low + high) / 2, code=3)
    value = Audit.load(path).result.bias
    assert "verdict: pass" in shell("audit", "check", path, "--bias-below", value + 1e-6, "--use", "estimate")
    groups = shell("audit", "check", path, "--bias-below", high + 1e-6, "--worst-group", "--json", code=3)
    assert json.loads(groups)["verdict"] == "undecided"
    assert "a check needs a limit" in shell("audit", "check", path, code=2)
    assert "between 0 and 1" in shell("audit", "check", path, "--bias-below", 10, code=2)


def test_the_curve_is_drawn_and_printed(folder: Path, shell: Shell, tmp_path: Path) -> None:
    shell("audit", "curve", folder / "erm.audit.json", "-o", tmp_path / "curve.svg")
    assert (tmp_path / "curve.svg").read_text().startswith("<svg")
    curve = json.loads(shell("audit", "curve", folder / "erm.audit.json", "--json"))
    assert np.all(np.diff(curve["bias"]) <= 0)
    assert "written as .svg" in shell("audit", "curve", folder / "erm.audit.json", "-o", "curve.png", code=2)


def test_sites_merge_to_the_pooled_audit(folder: Path, shell: Shell) -> None:
    sites = [folder / f"{name}.hist.json" for name in ("erm", "relif")]
    found = json.loads(shell("audit", "merge", *sites, "--ruler", folder / "ruler.json", "--json"))
    ruler = Ruler.from_json((folder / "ruler.json").read_text())
    both = pl.concat([outputs(2), outputs(2, 0.6)])
    low, high = found["bias_range"]
    assert low <= Audit(ruler.scores(both), ruler).result.bias <= high
    for change in ({"score_map": ScoreMap(mortality="sigmoid")}, {"tolerance": ruler.tolerance / 2}):
        (folder / "other.json").write_text(Ruler(**{**vars(ruler), **change}).to_json())
        assert "another ruler" in shell("audit", "merge", *sites, "--ruler", folder / "other.json", code=2)


def test_audits_of_which_one_names_its_data_are_not_compared(
    folder: Path, shell: Shell, tmp_path: Path
) -> None:
    (tmp_path / "meta.toml").write_text('dataset = "mine 1.0"')
    run = ["audit", "run", folder / "erm.parquet", "--ruler", folder / "ruler.json", "--subject", "patient"]
    shell(*run, "--meta", tmp_path / "meta.toml", "-o", tmp_path / "named.json")
    message = shell("audit", "compare", folder / "erm.audit.json", tmp_path / "named.json", code=2)
    assert (
        "their dataset differs: None against 'mine 1.0'; state it for both (the shell reads it from --meta)"
        in message
    )


def test_histograms_bring_the_tolerance_of_their_ruler(folder: Path, shell: Shell, tmp_path: Path) -> None:
    sites = [folder / f"{name}.hist.json" for name in ("erm", "relif")]
    ruler = folder / "ruler.json"
    named = shell("audit", "merge", *sites, "--ruler", ruler, "--json")
    assert shell("audit", "merge", *sites, "--json") == named
    assert json.loads(shell("audit", "merge", *sites, "--tolerance", "0.5", "--json"))["tolerance"] == 0.5
    both = ["--ruler", ruler, "--tolerance", "0.5"]
    assert "name either --ruler or --tolerance" in shell("audit", "merge", *sites, *both, code=2)
    first = json.loads(sites[0].read_text())
    (tmp_path / "other.json").write_text(json.dumps({**first, "tolerance": 0.5}))
    assert "their tolerance differs" in shell("audit", "merge", sites[1], tmp_path / "other.json", code=2)
    (tmp_path / "zero.json").write_text(json.dumps({**first, "tolerance": 0.0}))
    assert "another ruler" in shell("audit", "merge", tmp_path / "zero.json", "--ruler", ruler, code=2)
    for wrong in ("0.5", 27.5, True, -1):
        (tmp_path / "wrong.json").write_text(json.dumps({**first, "tolerance": wrong}))
        assert "histogram is damaged (tolerance" in shell("audit", "merge", tmp_path / "wrong.json", code=2)
    del first["tolerance"]
    (tmp_path / "none.json").write_text(json.dumps(first))
    assert "states no tolerance" in shell("audit", "merge", tmp_path / "none.json", code=2)
    assert "states no tolerance" in shell("audit", "merge", tmp_path / "none.json", "--by-site", code=2)
    kept = json.loads(shell("audit", "merge", tmp_path / "none.json", "--ruler", ruler, "--json"))
    assert kept["tolerance"] == json.loads(named)["tolerance"]


def test_sites_send_sums_and_the_interval_knows_their_subjects(
    folder: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    merge = ["audit", "merge", "erm.hist.json", "relif.hist.json", "--ruler", "ruler.json", "--json"]
    shell(*merge, "-o", "all.hist.json")
    run = ["--ruler", "ruler.json", "--subject", "patient", "--merged", "all.hist.json"]
    for site in ("erm.parquet", "relif.csv"):
        shell("audit", "run", site, *run, "--sums", f"{site}.sums.json")
    sums = ["--sums", "erm.parquet.sums.json", "--sums", "relif.csv.sums.json"]
    found = json.loads(shell(*merge, *sums))
    assert (found["clustered_by"], found["clusters"]) == ("subject", 240)
    ruler = Ruler.from_json((folder / "ruler.json").read_text())
    both = pl.concat(
        [outputs(2).with_columns(pl.format("other {}", "patient").alias("patient")), outputs(2, 0.6)]
    )
    exact = Audit(ruler.scores(both), ruler, subject="patient").result
    assert found["bias_interval"] == pytest.approx(exact.bias_interval(), abs=2 / 4096)
    alone = json.loads(shell(*merge))
    assert alone["bias_interval"] != found["bias_interval"]
    assert json.loads(shell(*merge, "--by-site"))["clustered_by"] == "site"
    assert "Intervals from 240 independent subjects" in shell(*merge[:-1], *sums)
    assert "name those of every site" in shell(*merge, *sums[:2], code=2)
    assert "--sums or --by-site" in shell(*merge, *sums, "--by-site", code=2)
    assert "belong together" in shell("audit", "run", "erm.parquet", *run, code=2)


def test_weighted_sites_merge_in_any_order_to_the_weighted_audit(
    folder: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    sites = [
        outputs(k).with_columns(pl.format("{} {}", pl.lit(k), "patient").alias("patient"), w=pl.Series(own))
        for k, own in enumerate(np.random.default_rng(7).gamma(2, size=(3, 240)))
    ]
    hists, files = [f"w{k}.hist.json" for k in range(3)], [f"w{k}.csv" for k in range(3)]
    run = ["--ruler", "ruler.json", "--subject", "patient", "--weight", "w"]
    for site, table, hist in zip(sites, files, hists, strict=True):
        site.write_csv(table)
        shell("audit", "run", table, *run, "--histogram", hist)
    merge = ["--ruler", "ruler.json", "--json"]
    shell("audit", "merge", *hists, *merge, "-o", "w.all.json")
    for table in files:
        shell("audit", "run", table, *run, "--merged", "w.all.json", "--sums", f"{table}.sums")
    sums = [word for table in files for word in ("--sums", f"{table}.sums")]
    found = json.loads(shell("audit", "merge", *reversed(hists), *merge, *sums))
    ruler = Ruler.from_json((folder / "ruler.json").read_text())
    both = pl.concat(sites)
    exact = Audit(ruler.scores(both), ruler, subject="patient", weight="w").result
    assert found["bias_range"][0] <= exact.bias <= found["bias_range"][1]
    assert found["bias_interval"] == pytest.approx(exact.bias_interval(), abs=2 / 4096)
    assert json.loads(shell("audit", "merge", *hists, *merge, "--by-site"))["clusters"] == 3
    assert "one has sample weights and one has none" in shell(
        "audit", "merge", "erm.hist.json", *hists, *merge, code=2
    )
    hidden = ["audit", "run", files[0], *run, "--histogram", "hidden.json", "-o", "own.json", "--hide"]
    for least in "12":
        assert "leaves weights in the open" in shell(*hidden, least, code=2)
    assert not (folder / "own.json").exists()
    shell(*hidden, "3")
    assert (folder / "own.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["calibrate", "reference.parquet", "--embedding", "y*", "--task", "a", "--task", "b", "-o", "r"],
         "no column 'y*'"),
        (["calibrate", "reference.parquet", "--embedding", "z*", "--score", "depth", "-o", "r"],
         "write TASK=RULE"),
        (["calibrate", "reference.parquet", "--embedding", "z*", "--score", "depth=cube", "--task", "b",
          "-o", "r"],
         "score rule 'cube' is unknown"),
        (["calibrate", "reference.parquet", "--embedding", "z*", "--task", "depth", "-o", "r"],
         "at least two tasks"),
        (["calibrate", "reference.parquet", "--embedding", "z*", "--task", "depth", "--task", "mortality",
          "--weight", "w", "-o", "r"],
         "calibration takes no weights"),
        (["run", "erm.parquet", "--ruler", "absent.json"], "absent.json cannot be read"),
        (["run", "erm.parquet", "--ruler", "card.toml"], "this is no ruler"),
        (["run", "reference.parquet", "--ruler", "ruler.json", "--subject", "id"],
         "subject 'id' is no column"),
        (["run", "erm.parquet", "--ruler", "ruler.json", "--meta", "ruler.json"], "is no TOML"),
        (["run", "erm.parquet", "--ruler", "ruler.json", "--card", "card.pdf"],
         "written as .json, .md or .html"),
        (["run", "erm.parquet", "--ruler", "ruler.json", "--hide", "5"],
         "--hide is about the file of --histogram; name it, or leave --hide out"),
        (["run", "erm.parquet", "--ruler", "ruler.json", "--bins", "100"], "--bins is about the file of"),
        (["run", "erm.parquet", "--ruler", "ruler.json", "--keep-influences"], "about the file of --output"),
        (["run", "erm.parquet", "--ruler", "ruler.json", "--bins", "100", "--histogram", "h.json"],
         "bins must be a power of two"),
        (["compare", "erm.audit.json"], "name two audit files"),
        (["compare", "erm.audit.json", "ruler.json"], "this is no audit file"),
        (["compare", "erm.audit.json", "relif.audit.json", "--adjust", "no"], "adjust 'no' is unknown"),
        (["merge", "ruler.json", "--tolerance", "0.2"], "ruler.json: histogram is damaged"),
        (["merge", "erm.hist.json", "./erm.hist.json", "--tolerance", "0.2"],
         "is named twice; every site counts"),
        (["merge", "erm.hist.json", "relif.hist.json", "--tolerance", "0.2", "-o", "erm.hist.json"],
         "erm.hist.json would be overwritten"),
        (["calibrate", "reference.parquet", "--embedding", "z*", "--task", "depth", "--task", "mortality",
          "-o", "./reference.parquet"],
         "reference.parquet would be overwritten"),
        (["run", "erm.parquet", "--ruler", "ruler.json", "-o", "erm.parquet"],
         "erm.parquet would be overwritten"),
        (["run", "erm.parquet", "--ruler", "ruler.json", "-o", "ruler.json"],
         "ruler.json would be overwritten"),
        (["run", "erm.parquet", "--ruler", "ruler.json", "-o", "x.json", "--card", "x.json"],
         "x.json would be overwritten"),
        (["run", "erm.parquet", "--ruler", "ruler.json", "-o", "."], ". is a folder; name a file"),
        (["curve", "erm.audit.json", "-o", "erm.audit.json"], "erm.audit.json would be overwritten"),
    ],
)  # fmt: skip
def test_mistakes_end_with_status_2(
    folder: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(folder)
    assert message in shell("audit", *arguments, code=2)


def test_one_site_under_two_names_is_asked_about(folder: Path, shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "again.json").write_text((folder / "erm.hist.json").read_text())
    hists = [str(folder / "erm.hist.json"), str(tmp_path / "again.json")]
    told = shell("audit", "merge", *hists, "--tolerance", "0.2")
    assert "two of the histograms are equal in every cell" in told


def test_json_has_null_where_there_is_no_number(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("a,b\n0.125,0.875\n")
    one = str(tmp_path / "one.csv")
    words = ["audit", one, "--tolerance", "0.25", "--task", "a", "--task", "b", "--versus", one, "--json"]
    found = json.loads(shell(*words), parse_constant=pytest.fail)
    assert found["result"]["bias"] == 0.5
    assert found["difference"]["interval"] == [None, None]


def test_no_interval_is_said_in_words(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("a,b\n0.125,0.875\n")
    one = str(tmp_path / "one.csv")
    found = shell("audit", one, "--tolerance", "0.25", "--task", "a", "--task", "b", "--versus", one)
    assert found.count("no interval: a single independent unit") == 3
    assert "nan" not in found
    sketch = HistogramSketch.of({"a": [0.125], "b": [0.875]}, 16, tolerance=0.25)
    (tmp_path / "x.json").write_text(sketch.to_json())
    told = shell("audit", "merge", tmp_path / "x.json", "--by-site")
    assert "proven 0.4375 to 0.5625; no interval: a single independent unit" in told
    assert "nan" not in told


def test_a_damaged_audit_file_ends_with_status_2(folder: Path, shell: Shell, tmp_path: Path) -> None:
    content = json.loads((folder / "erm.audit.json").read_text())
    content["result"]["bias"] = "0.1"
    (tmp_path / "damaged.json").write_text(json.dumps(content))
    for words in (["check", "--bias-below", "0.1"], ["curve"]):
        told = shell("audit", words[0], tmp_path / "damaged.json", *words[1:], code=2)
        assert "damaged.json: audit result is damaged (bias is no float" in told


def test_a_task_called_self_is_calibrated(shell: Shell, tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"self": [0.1, 0.4, 0.9, 0.2], "b": [0.2, 0.6, 0.1, 0.8], "z": [1.0, 2.0, 3.0, -1.0]}
    )
    frame.write_csv(tmp_path / "t.csv")
    words = ["--task", "self", "--task", "b", "--embedding", "z", "-o", tmp_path / "r.json"]
    assert "δ =" in shell("audit", "calibrate", tmp_path / "t.csv", *words)
    found = shell("audit", "run", tmp_path / "t.csv", "--ruler", tmp_path / "r.json", "--json")
    assert json.loads(found)["tasks"] == ["self", "b"]


def test_an_embedding_column_is_the_one_of_its_name_before_it_is_a_pattern(
    shell: Shell, tmp_path: Path
) -> None:
    generator = np.random.default_rng(3)
    names = ["z1", "z2", "z[1]", "z[2]"]
    frame = pl.DataFrame(
        {name: generator.random(40) - 0.3 for name in names} | {"a": [0.5] * 40, "b": [0.1] * 40}
    )
    frame.write_csv(tmp_path / "t.csv")
    frame.drop("z1", "z2").rename({"z[1]": "z1", "z[2]": "z2"}).write_csv(tmp_path / "renamed.csv")
    found = []
    for table, embedding in (("t", "z[1]"), ("t", "z1"), ("renamed", "z1")):
        words = [
            "--embedding",
            embedding,
            "--embedding",
            embedding.replace("1", "2"),
            "--task",
            "a",
            "--task",
            "b",
        ]
        shell("audit", "calibrate", tmp_path / f"{table}.csv", *words, "-o", tmp_path / "r.json")
        found.append(Ruler.load(tmp_path / "r.json").spread)
    assert found[0] == found[2] != found[1]


def test_a_ruler_is_for_tasks_that_its_reference_has(shell: Shell, tmp_path: Path) -> None:
    table, ruler = tmp_path / "t.csv", tmp_path / "r.json"
    outputs(1).rename({"los_short": "los:0", "los_long": "los:1"}).write_csv(table)
    words = ["audit", "calibrate", table, "--embedding", "z*", "--score", "mortality=sigmoid", "-o", ruler]
    for task, message in (
        (["--score", "mortalty=sigmoid"], "task 'mortalty': outputs have no 'mortalty'"),
        (["--score", "los=max_softmax"], "task 'los': outputs have no 'los'"),
        (["--task", "depth"], "task 'depth': .* scores lie outside"),
        (
            ["--score", "depth=quantile:.1:.9", "--seed", 2**63],
            r"seed must be .* 2\^63 is too large",
        ),  # no file holds it
    ):
        assert re.search(message, shell(*words, *task, code=2))
        assert not ruler.exists()
    shell(*words, "--score", "los=max_softmax:los:*")
    assert Ruler.load(ruler).score_map.rules["los"]["columns"] == "los:*"


def test_a_file_name_in_another_encoding_is_a_name(folder: Path, shell: Shell, tmp_path: Path) -> None:
    table = tmp_path / os.fsdecode(b"m\xe9decin.csv")
    table.write_bytes((folder / "relif.csv").read_bytes())
    written = [tmp_path / name for name in ("a.json", "card.json", "card.md", "card.html")]
    words = ["-o", written[0], *(word for path in written[1:] for word in ("--card", path))]
    assert "m\\udce9decin: Bias" in shell("audit", "run", table, "--ruler", folder / "ruler.json", *words)
    assert Audit.load(written[0]).name == json.loads(written[1].read_text())["model"] == table.stem
    assert all("m\\udce9decin" in path.read_text() for path in written)


def test_rows_that_stand_for_subjects_are_told_where_audits_will_be_paired(
    folder: Path, shell: Shell
) -> None:
    run = [
        "audit",
        "run",
        folder / "erm.parquet",
        "--ruler",
        folder / "ruler.json",
        "-o",
        folder / "own.json",
    ]
    told = "no --subject: `compare` will pair the rows, in file order"
    assert told in shell(*run, "--keep-influences")
    assert told not in shell(*run, "--keep-influences", "--subject", "patient") + shell(*run)


def test_what_the_terminal_cannot_show_is_escaped(folder: Path) -> None:
    command = [sys.executable, "-m", "relif_core.cli", "audit", "run", "erm.parquet", "--ruler", "ruler.json"]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    assert done.returncode == 0
    assert b"at \\u03b4 = " in done.stdout


def test_facts_may_begin_with_a_byte_order_mark(folder: Path, shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "meta.toml").write_bytes("\ufeffname = 'net'\r\n".encode())
    run = ["audit", "run", folder / "erm.parquet", "--ruler", folder / "ruler.json"]
    assert shell(*run, "--meta", tmp_path / "meta.toml").startswith("net: Bias")


def test_nothing_is_written_where_something_is_refused(folder: Path, shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "meta.toml").write_text("[utility]\nWorst = 'high'\n")
    run = ["audit", "run", str(folder / "erm.parquet"), "--ruler", str(folder / "ruler.json")]
    output = tmp_path / "own.json"
    words = ["--meta", str(tmp_path / "meta.toml"), "--card", str(tmp_path / "card.md"), "-o", str(output)]
    assert "utility 'Worst' must be a number" in shell(*run, *words, code=2)
    merge = ["audit", "merge", str(folder / "erm.hist.json"), "--tolerance", "0.2", "--level", "95"]
    assert "level must lie between 0 and 1" in shell(*merge, "-o", str(output), code=2)
    assert not output.exists()


@pytest.mark.parametrize(
    ("words", "status"),
    [(["check", "--bias-below", "1"], 0), (["check", "--bias-below", "0"], 1), (["curve"], 141)],
)
def test_a_reader_that_leaves_changes_no_verdict(folder: Path, words: list[str], status: int) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "relif_core.cli", "audit", words[0], "erm.audit.json", *words[1:]]
    done = subprocess.run(command, cwd=folder, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (status, b"")


def test_a_first_word_that_is_a_verb_is_the_verb(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scores.csv").write_text("a,b\n0.1,0.4\n0.9,0.3\n")
    for words in (
        ["scores.csv", "--tolerance", "0.1"],
        ["--tolerance", "0.1", "scores.csv"],
        ["file", "scores.csv", "--tolerance", "0.1"],
    ):
        assert "Bias           0.3000" in shell("audit", *words)
    (tmp_path / "run").write_text("")
    assert "a table of kind without an ending" in shell("audit", "./run", "--tolerance", "0.1", code=2)
    text = shell("audit", "./scores.csv", "--tolerance", "0.1", "--task", "a", "--task", "b", "--json")
    assert json.loads(text)["bias"] == pytest.approx(0.3)


def test_status_of_the_command_itself(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    assert shell("--version").startswith("relif-core ")
    assert "calibrate" in shell("audit", "-h")
    assert "No such option" in shell("audit", "check", "--nonsense", code=2)

    def crash(path: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(Audit, "load", crash)
    monkeypatch.setattr(sys, "argv", ["relif", "audit", "check", "x.json", "--bias-below", "0.1"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 70
