"""Every command of k8s/README.md is run by a test, or k8s/UNTESTED.md says why none runs it."""

import re
import shlex
from pathlib import Path

import pytest

from tests.unit.cli.test_from_vvr import resolve

REPOSITORY = Path(__file__).parents[3]
PAGE = (REPOSITORY / "k8s/README.md").read_text()
UNTESTED = (REPOSITORY / "k8s/UNTESTED.md").read_text()
KUBECTL_VALUES = {"-n", "--namespace", "-c"}
"""Flags of kubectl that take the next word."""
TESTED = {
    "kubectl kustomize k8s/overlays/{overlay}": "tests/e2e/test_kubernetes.py::render",
    "kubectl kustomize k8s/samples/postgres": "tests/e2e/test_kubernetes_attach.py::sample",
    "make image BASE=debian": "tests/e2e/test_image.py::image",
    "make image TARGET=attach": "tests/e2e/test_image.py::attach_image",
}
"""Which test or fixture does what a command does."""


def commands() -> list[str]:
    """The command lines of the page's blocks and of its text, without their comments."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    text = re.sub(r"^```.*?^```", "", PAGE, flags=re.DOTALL | re.MULTILINE)
    lines += re.findall(r"`((?:kubectl|make) [^`]+)`", text)
    return [re.sub(r"\s+#.*", "", " ".join(line.split())) for line in lines if line.strip()]


def untested() -> set[str]:
    """What stands in the first column of UNTESTED.md."""
    rows = [line.split("|")[1] for line in UNTESTED.splitlines() if line.startswith("| ")]
    return {word.removeprefix("kubectl ") for row in rows for word in re.findall("`([^`]+)`", row)}


def verb(line: str) -> str:
    """What a command of kubectl does: its words up to the first that is a name or a flag."""
    words = iter(shlex.split(line)[1:])
    for word in words:
        if word in KUBECTL_VALUES:
            next(words)
        elif not word.startswith("-"):
            return f"rollout {next(words)}" if word == "rollout" else word
    raise AssertionError(line)


def pattern_of(line: str) -> str:
    return re.sub(r"(?<=k8s/overlays/)\S+", "{overlay}", line)


def test_there_are_commands() -> None:
    assert len(commands()) > 10


@pytest.mark.parametrize("line", commands())
def test_command_is_run_by_a_test_or_listed_as_untested(line: str) -> None:
    place = TESTED.get(pattern_of(line))
    if place is not None:
        path, _, name = place.partition("::")
        assert re.search(rf"^def {name}\(", (REPOSITORY / path).read_text(), re.MULTILINE), place
    elif line.startswith("kubectl "):
        assert verb(line) in untested(), line
    else:
        assert line in untested() or line.split(" BASE=")[0] in untested(), line


@pytest.mark.parametrize("line", [line for line in commands() if " -- slackwater " in line])
def test_command_in_a_container_is_one_of_the_command_line(line: str) -> None:
    command, rest = resolve(line.partition(" -- ")[2].partition(" < ")[0])
    assert not hasattr(command, "commands"), line
    known = {name for row in command.params for name in (*row.opts, *row.secondary_opts)}
    assert all(word in known for word in rest if word.startswith("--")), line


@pytest.mark.parametrize(
    "path", re.findall(r"k8s/(?:overlays|components|base|samples)/[\w-]+", PAGE)
)
def test_directory_that_the_page_names_is_there(path: str) -> None:
    assert (REPOSITORY / path).is_dir()
