"""Workflows, containers, Binder and hooks: they call what there is, by the names that it has."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
#: The documented inputs of the actions that we use, those that must be given first with a star.
ACTIONS = {
    "actions/checkout@v4": {"fetch-depth", "ref", "lfs"},
    "actions/setup-python@v5": {"*python-version", "cache", "cache-dependency-path"},
    "actions/configure-pages@v5": {"static_site_generator", "enablement"},
    "actions/upload-pages-artifact@v3": {"*path", "name", "retention-days"},
    "actions/deploy-pages@v4": {"timeout", "artifact_name"},
}
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def steps_of(workflow: Path) -> list[dict[str, Any]]:
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"]
    return [step for job in jobs.values() for step in job["steps"]]


def made_by(text: str) -> set[str]:
    """The make targets that the commands of a text call; prose that says "make" calls none."""
    command = r"""(?:^|`|run: |RUN |": "|CMD \[")make(?: |", ")([a-z]+)"""
    return set(re.findall(command, text, re.MULTILINE))


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_get_the_inputs_that_they_document(workflow: Path) -> None:
    for step in steps_of(workflow):
        if "uses" in step:
            known, given = ACTIONS[step["uses"]], set(step.get("with", {}))
            needed = {name[1:] for name in known if name.startswith("*")}
            assert needed <= given <= {name.lstrip("*") for name in known}, step
        else:
            assert set(step) == {"run"}, step


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_name_steps_keys_and_pythons_that_there_are(workflow: Path) -> None:
    found = yaml.safe_load(workflow.read_text(encoding="utf-8"))
    assert {*found} == {"name", True, "permissions", "jobs"} | ({"concurrency"} & {*found})  # `on` is a bool
    steps = steps_of(workflow)
    named = {step["id"] for step in steps if "id" in step}
    assert set(re.findall(r"steps\.(\w+)\.", workflow.read_text())) == named
    versions = set(re.findall(r'"(3\.\d+)"', workflow.read_text()))
    assert versions <= set(re.findall(r"python(3\.\d+)", text_of("Makefile")))


def test_the_published_folder_is_the_one_that_make_test_renders() -> None:
    steps = steps_of(ROOT / ".github" / "workflows" / "book.yml")
    runs = [step["run"] for step in steps if "run" in step]
    assert runs == ["make test", "touch _build/html/.nojekyll"]
    order = [step.get("uses", step.get("run")) for step in steps]
    upload = next(step for step in steps if "upload-pages-artifact" in step.get("uses", ""))
    assert upload["with"]["path"] == "_build/html"
    assert order.index("touch _build/html/.nojekyll") < order.index(upload["uses"])


@pytest.mark.parametrize(
    "name",
    ["Dockerfile", ".devcontainer/devcontainer.json", "environment.yml", "README.md", "book/contributing.md"]
    + [f".github/workflows/{path.name}" for path in WORKFLOWS],
)
def test_what_is_made_can_be_made(name: str) -> None:
    called = made_by(text_of(name))
    assert called
    assert called <= TARGETS


def test_the_container_holds_what_the_book_and_its_tests_need_and_no_data() -> None:
    dockerfile = text_of("Dockerfile")
    installed = set(re.search(r"--no-install-recommends (.*)", dockerfile)[1].split())  # type: ignore[index]
    browser = re.search(r"--no-install-recommends (.*) >", text_of("Makefile"))[1].split()  # type: ignore[index]
    assert {"make", "git", *browser} <= installed
    assert re.search(r"FROM python:3\.11-", dockerfile)
    kept_out = set(text_of(".dockerignore").splitlines())
    for built in (".venv", "_build", "runs", "data/raw", "data/tensors"):
        assert re.search(rf"^/?{built}/$", text_of(".gitignore"), re.MULTILINE)
        assert built in kept_out
    container = json.loads(text_of(".devcontainer/devcontainer.json"))
    assert container["build"] == {"dockerfile": "../Dockerfile", "context": ".."}


def test_conda_and_binder_take_the_pins_and_a_python_that_they_hold_for() -> None:
    python, *_, pip = yaml.safe_load(text_of("environment.yml"))["dependencies"]
    assert python == "python=3.11"
    assert pip == {"pip": ["-r requirements.lock"]}
    assert text_of(".binder/runtime.txt").strip() == "python-3.11"
    script = text_of(".binder/postBuild")
    assert "install --no-cache-dir --quiet -r requirements.txt\n" in script
    assert "--no-deps -e ." in script
    assert os.access(ROOT / ".binder" / "postBuild", os.X_OK)


def test_hooks_are_the_quick_checks() -> None:
    hooks = yaml.safe_load(text_of(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    check = re.search(r"^check:.*\n((?:\t.*\n)+)", text_of("Makefile"), re.MULTILINE)[1]  # type: ignore[index]
    for hook in hooks:
        command = hook["entry"].removeprefix(".venv/bin/")
        assert f"$(BIN)/{command}" in check
