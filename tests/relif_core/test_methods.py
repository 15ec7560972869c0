"""The one table of methods: complete, distinct to the eye, and open to balancers from outside the package."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from relif_core import methods
from relif_core.balancers import balancer_class, make_balancer
from relif_core.errors import InputError
from relif_core.methods import METHODS, add_balancer, balancer_keys, look_of, method_of, title_of
from relif_core.settings import RunSettings, as_json, method_settings, settings_from

OWN = '''
import torch
from relif_core.balancers.base import Balancer


class LossShare(Balancer):
    """Weights in proportion to the losses."""

    title = "Loss share"
    source = "nobody"

    def _weights_from_losses(self, losses, present):
        return losses * self.tasks / losses.sum()
'''


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Path]:
    """A balancer's file; what a test adds is taken out again."""
    before, place = dict(METHODS), os.environ.get(methods.ENVIRONMENT)
    path = tmp_path / "own.py"
    path.write_text(OWN, encoding="utf-8")
    yield path
    METHODS.clear()
    METHODS.update(before)
    os.environ.pop(methods.ENVIRONMENT, None)
    if place is not None:
        os.environ[methods.ENVIRONMENT] = place


def test_no_two_methods_look_alike_but_versions_of_one() -> None:
    looks = [(entry.colour, entry.marker, entry.hollow) for entry in METHODS.values()]
    assert len(set(looks)) == len(looks)
    released = method_of("pcgrad_as_released")
    assert (released.colour, released.marker) == (METHODS["pcgrad"].colour, METHODS["pcgrad"].marker)
    assert released.hollow
    assert method_of("pcgrad+relif").hollow
    assert not METHODS["cats_as_released"].hollow


def test_every_method_gives_settings_and_every_balancer_a_class() -> None:
    for key, entry in METHODS.items():
        settings = method_settings(key, model={"weights": None} if entry.dense else {})
        assert settings.method == key
        assert settings.balancer == entry.balancer
        assert entry.title
        assert as_json(settings_from(RunSettings, as_json(settings))) == as_json(settings)
    for key in balancer_keys():
        assert balancer_class(key).__doc__


def test_titles() -> None:
    expected = {
        "relif": "ReLiF",
        "cats_as_released": "CATS",
        "fairgrad_as_released": "FairGrad (as released)",
        "gradnorm+relif": "GradNorm + ReLiF",
        "relif_static": "ReLiF, static λ = 0.1",
        "relif_static_0.01": "ReLiF, static λ = 0.01",
        "relif_step_size_0.05_target_0.09": "ReLiF, η = 0.05, ρ* = 0.09",
        "upgrad": "UPGrad",
        "somebody_s_method+relif": "somebody s method + ReLiF",
    }
    assert {key: title_of(key) for key in expected} == expected


def test_unknown_methods_are_refused_for_runs_and_plain_for_readers() -> None:
    with pytest.raises(InputError, match="no method is called 'nosuch'"):
        method_settings("nosuch")
    with pytest.raises(InputError, match=r"only '\+relif' can follow"):
        method_of("erm+static")
    with pytest.raises(InputError, match="no method is called"):
        method_of("relif_static+relif")
    look = look_of("nosuch")
    assert look == look_of("nosuch")
    assert look.colour
    assert look.marker


def test_a_balancer_from_outside_is_one_file(own: Path) -> None:
    entry = add_balancer(f"{own}:LossShare")
    assert (entry.key, entry.title) == ("loss_share", "Loss share")
    assert (entry.colour, entry.marker) not in {(e.colour, e.marker) for e in METHODS.values() if e != entry}
    settings = method_settings("loss_share")
    assert settings.balancer.startswith("loss_share@")
    assert settings_from(RunSettings, as_json(settings)) == settings
    weights = make_balancer(settings.balancer, tasks=2)(torch.tensor([1.0, 3.0]))
    assert weights.tolist() == [0.5, 1.5]
    hybrid = method_settings("loss_share+relif")
    assert (hybrid.balancer, hybrid.penalty) == (settings.balancer, True)
    assert title_of("loss_share+relif") == "Loss share + ReLiF"
    assert add_balancer(f"{own}:LossShare") == entry


def test_another_version_of_the_file_is_another_run(own: Path) -> None:
    add_balancer(f"{own}:LossShare")
    before = method_settings("loss_share")
    own.write_text(OWN.replace("self.tasks", "2 * self.tasks"), encoding="utf-8")
    with pytest.raises(InputError, match="is another version"):
        make_balancer(before.balancer, tasks=2)
    add_balancer(f"{own}:LossShare")
    after = method_settings("loss_share")
    assert after.balancer != before.balancer
    assert make_balancer(after.balancer, tasks=2)(torch.tensor([1.0, 3.0])).tolist() == [1.0, 3.0]


def test_other_processes_know_it_too(own: Path) -> None:
    add_balancer(f"{own}:LossShare")
    code = "from relif_core.methods import title_of, method_of; print(method_of('loss_share').title)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "Loss share"


def test_a_balancer_that_is_gone_is_named_by_every_command() -> None:
    environment = {**os.environ, methods.ENVIRONMENT: "gone.py:X"}
    command = [sys.executable, "-m", "relif_core.cli", "data", "list"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr == "relif: gone.py:X: no such file; name a balancer as path/to/file.py:Class\n"


@pytest.mark.parametrize(
    ("content", "reference", "message"),
    [
        (OWN, "own.py", "no such file; name a balancer as"),
        (OWN, "other.py:LossShare", "no such file"),
        (OWN, "own.txt:LossShare", r"is no \.py file; name a balancer as path/to/file\.py:Class"),
        (OWN, "own.py:Nobody", "has no class 'Nobody'; it has LossShare"),
        ("class (", "own.py:LossShare", "is no Python file"),
        (OWN.replace("LossShare", "Upgrad"), "own.py:Upgrad", "a method is already called 'upgrad'"),
        (OWN, "a;b/own.py:LossShare", "holds ';', which separates two of them; rename the folder"),
    ],
)
def test_what_is_no_balancer_is_named(own: Path, content: str, reference: str, message: str) -> None:
    own.write_text(content, encoding="utf-8")
    own.with_suffix(".txt").write_text(content, encoding="utf-8")
    (own.parent / "a;b").mkdir()
    (own.parent / "a;b" / own.name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        add_balancer(f"{own.parent}/{reference}")


def test_a_file_that_cannot_be_imported_or_is_gone_is_named(own: Path) -> None:
    own.write_text("import nosuch\n" + OWN, encoding="utf-8")
    add_balancer(f"{own}:LossShare")
    for message in (r"own\.py cannot be imported \(ModuleNotFoundError: .*nosuch", r"own\.py cannot be read"):
        with pytest.raises(InputError, match=message):
            make_balancer(method_settings("loss_share").balancer, tasks=2)
        own.unlink(missing_ok=True)


def test_a_title_may_be_annotated(own: Path) -> None:
    own.write_text(OWN.replace("title =", "title: str ="), encoding="utf-8")
    assert add_balancer(f"{own}:LossShare").title == "Loss share"


def test_a_class_of_another_kind_is_named(own: Path) -> None:
    own.write_text(OWN.replace("(Balancer)", ""), encoding="utf-8")
    add_balancer(f"{own}:LossShare")
    with pytest.raises(InputError, match=r"is no relif_core\.balancers\.Balancer"):
        make_balancer(method_settings("loss_share").balancer, tasks=2)
