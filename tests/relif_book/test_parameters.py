"""Pages away from their defaults: what a parameter takes, what it refuses, and that every page runs there."""

import itertools
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relif_book import Page
from relif_book import page as page_module
from relif_book.build.execute import execute_page
from relif_book.parameters import PARAMETERS, Domain, check_parameters, declared_parameters
from relif_book.project import project_root
from relif_core.errors import InputError, ReliFError
from relif_core.tensors.folder import read_manifest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
DECLARED = {path.stem: declared_parameters(path.stem) for path in sorted(NOTEBOOKS.glob("*.md"))}
TWO = "data/records/nyuv2,data/records/physionet2012_methods"
#: Names whose other values ask for records that a data set may not have: a named error is an answer too.
ASKING = ("dataset", "studies")
#: Cases of one commit in the ordinary suite; `-m slow` runs all.
ROTATING = 3


def domain_of(page: str, name: str) -> Domain:
    return PARAMETERS.get(f"{page}.{name}") or PARAMETERS[name]


def others(page: str, name: str) -> list[Any]:
    return [value for value in domain_of(page, name).others if value != DECLARED[page][name]][:3]


def _cases() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every page at three other values of all its numbers and methods, and of each name of records."""
    for page, declared in DECLARED.items():
        tried = {name: others(page, name) for name in declared if domain_of(page, name).others}
        together = [name for name in tried if name not in ASKING]
        for k in range(3) if together else ():
            yield page, {name: tried[name][k] for name in together}
        yield from ((page, {name: value}) for name in tried if name in ASKING for value in tried[name])


CASES = list(_cases())
#: Pages that train take minutes at other values: they wait for ``-m slow``.
QUICK = [case for case in CASES if "epochs" not in DECLARED[case[0]]]


def of_this_commit() -> list[tuple[str, dict[str, Any]]]:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    first = int(done.stdout.strip() or "0", 16)
    return [QUICK[(first + k * len(QUICK) // ROTATING) % len(QUICK)] for k in range(ROTATING)]


def name_of(value: object) -> str:
    return value if isinstance(value, str) else ",".join(f"{key}={each}" for key, each in value.items())  # type: ignore[attr-defined]


def run_case(page: str, parameters: dict[str, Any], tmp_path: Path, run_cells: Callable[..., str]) -> None:
    print(f"{page} with {parameters}")
    if "get_ipython" in (NOTEBOOKS / f"{page}.md").read_text():
        execute_page(page, tmp_path / f"{page}.ipynb", root=ROOT, parameters=parameters)
        return
    try:
        run_cells(page, **parameters)
    except ReliFError as error:
        if not set(parameters) <= set(ASKING):
            raise
        print(error)


@pytest.mark.parametrize(("page", "parameters"), of_this_commit(), ids=name_of)
def test_pages_of_this_commit_run_away_from_their_defaults(
    page: str, parameters: dict[str, Any], tmp_path: Path, run_cells: Callable[..., str]
) -> None:
    run_case(page, parameters, tmp_path, run_cells)


@pytest.mark.slow
@pytest.mark.parametrize(("page", "parameters"), CASES, ids=name_of)
def test_every_page_runs_away_from_its_defaults(
    page: str, parameters: dict[str, Any], tmp_path: Path, run_cells: Callable[..., str]
) -> None:
    run_case(page, parameters, tmp_path, run_cells)


@pytest.mark.parametrize("page", DECLARED)
def test_every_number_of_a_page_has_three_other_values_inside_its_domain(page: str) -> None:
    for name, value in DECLARED[page].items():
        check_parameters(page, {name: value}, DECLARED[page])
        tried = others(page, name)
        assert len(tried) == 3 or not domain_of(page, name).others
        assert tried or isinstance(value, str)
        for other in tried:
            check_parameters(page, {name: other}, DECLARED[page])


@pytest.mark.parametrize(
    ("page", "given_", "message"),
    [
        ("table_5_settings", {"method": "nosuch"}, "method is 'nosuch': no method is called 'nosuch'"),
        ("table_5_settings", {"methods": "erm"}, "unknown parameter methods; it takes method, profile"),
        ("table_1_nyuv2", {"methods": "erm,erm"}, "it must be a method, or several .* each once"),
        ("table_1_nyuv2", {"methods": "erm, erm"}, "no method is called ' erm'"),
        ("table_1_nyuv2", {"methods": "erm, relif"}, "no method is called ' relif'"),
        ("claims", {"studies": "eicu_demo_methods, x"}, "several separated by commas without blanks"),
        ("table_1_nyuv2", {"published_records": TWO}, "it must be a folder of the checkout$"),
        ("in_three_minutes", {"dense_records": TWO}, "it must be a folder of the checkout$"),
        ("theorem_b2_ranking_under_drift", {"published_records": f"{TWO} "}, "several separated by commas"),
        ("table_3_trade_off", {"data": f"{ROOT},{NOTEBOOKS}"}, "it must be a folder that exists$"),
        ("table_3_trade_off", {"data": 2012}, "data is 2012; it must be a folder that exists"),
        ("table_3_trade_off", {"device": "auto"}, "device is 'auto'; it must be cpu, cuda or cuda:N"),
        ("table_3_trade_off", {"seeds": True}, "seeds is True; it must be a whole number from 1"),
        ("algorithm_1_audit", {"tolerance": "0.5"}, "tolerance is '0.5'; it must be a number from 0 to 1"),
        ("algorithm_1_audit", {"tolerance": float("nan")}, "tolerance is nan"),
        ("table_1_nyuv2", {"published_records": "/etc"}, "it must be a folder of the checkout$"),
        ("table_1_nyuv2", {"published_records": "data/../.."}, "it must be a folder of the checkout$"),
        ("claims", {"studies": "../records"}, "it must be a folder below data/records"),
        ("exact_audit", {"seed": 10**5000}, "seed is out of range"),
    ],
)
def test_what_a_parameter_does_not_take_is_named(page: str, given_: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"page '{page}': .*{message}"):
        check_parameters(page, given_, DECLARED[page])


@pytest.mark.parametrize(
    ("page", "given_"),
    [
        ("table_1_nyuv2", {"methods": "erm,relif"}),
        ("theorem_b2_ranking_under_drift", {"published_records": TWO}),
        ("clinical_data", {"data": f"{ROOT},{NOTEBOOKS}"}),
    ],
)
def test_several_are_taken_where_a_page_reads_several(page: str, given_: dict[str, Any]) -> None:
    check_parameters(page, given_, DECLARED[page])


ODD = ("", "/", "a" * 5000, ".", "erm,relif", "cuda:9", "~", "\0", "physionet2012,", "erm+relif+relif")
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=300), st.binary(max_size=5),
    st.lists(st.integers(), max_size=3), st.sampled_from(ODD),
)  # fmt: skip


def refused_by_name_or_taken(page: str, name: str, value: Any) -> None:
    message = f"page '{page}': taken"
    try:
        check_parameters(page, {name: value}, DECLARED[page])
    except InputError as error:
        message = str(error)
    assert message.startswith(f"page '{page}': ")
    assert len(message) < 2500


@pytest.mark.parametrize("page", DECLARED)
def test_odd_values_of_every_parameter_are_taken_or_refused_in_a_bounded_message(page: str) -> None:
    for name, value in itertools.product(DECLARED[page], ODD):
        refused_by_name_or_taken(page, name, value)


NAMES = st.sampled_from([(page, name) for page, declared in DECLARED.items() for name in declared])


@settings(max_examples=150, deadline=None)
@given(NAMES, VALUES)
def test_any_value_of_any_parameter_is_taken_or_refused_by_name(place: tuple[str, str], value: Any) -> None:
    refused_by_name_or_taken(*place, value)


@pytest.mark.slow
@settings(max_examples=2500, deadline=None, suppress_health_check=list(HealthCheck))
@given(NAMES, VALUES)
def test_many_values_of_any_parameter_are_taken_or_refused_by_name(
    place: tuple[str, str], value: Any
) -> None:
    refused_by_name_or_taken(*place, value)


def test_a_page_takes_the_tensors_that_it_is_given_and_simulates_them_otherwise() -> None:
    page = Page("table_3_trade_off")
    made = [page.tensors("synthetic_icu", stays=30, seed=seed) for seed in (0, 1)]
    assert made[0] != made[1]
    assert Page("table_3_trade_off", data=str(made[0])).tensors("synthetic_icu") == made[0]
    with pytest.raises(
        InputError, match=r"'nyuv2_data': data is .* clinical data; this page needs dense data"
    ):
        Page("nyuv2_data", data=str(made[0])).tensors("synthetic_rooms")
    assert all(read_manifest(folder)["synthetic"] for folder in made)


def test_a_page_depends_on_the_tables_that_the_packages_read() -> None:
    """They lie beside the module that reads them, or in the folder "tables" there."""
    import relif_data.mimic3
    import relif_data.synthetic_icu  # noqa: F401

    known = page_module._package_sources()
    for package in ("relif_core", "data/relif_data", "book/relif_book"):
        root = project_root()
        for path in (root / package).rglob("*"):
            if path.is_file() and path.suffix not in ("", ".py", ".pyc", ".md", ".typed"):
                assert path.relative_to(root).as_posix() in known, f"{path.name} is read and not depended on"


def test_own_data_without_groups_are_described(
    tmp_path: Path, own_data: Any, run_cells: Callable[..., str]
) -> None:
    folders = f"{own_data.two_tasks(tmp_path / 'two')},{own_data.three_stays(tmp_path / 'three')}"
    printed = run_cells("clinical_data", data=folders)
    assert "This run: Three invented stays names no groups." in printed


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page, declared in DECLARED.items() if "data" in declared])
@pytest.mark.parametrize("tied", [False, True])
def test_pages_run_on_own_data_of_two_tasks_without_groups_or_refuse_them_by_name(
    page: str, tied: bool, tmp_path: Path, own_data: Any, run_cells: Callable[..., str]
) -> None:
    own = own_data.two_tasks(tmp_path / "mine", tied=tied)
    clinical = set(DECLARED[page]) >= {"data"} and not {"weights"} & set(DECLARED[page])
    try:
        run_cells(page, data=str(own))
    except ReliFError:
        assert not clinical or page in ("label_leakage", "mimic3_repairs", "nyuv2_data")
