"""The listings of the pages for authors of transforms are files that work, and their tables are true."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from shotover_gevent.config.check import check_files
from shotover_gevent.config.registry import Registry
from shotover_gevent.errors import ConfigError
from shotover_gevent.testing import check_transform, contract, run_transcript
from tests.harness import CONFIG
from tests.test_docs import AUTHORS, ROOT, Block, blocks, rows

LISTINGS = [block for block in blocks("python") if block.page in AUTHORS]
TESTS = [block for block in LISTINGS if block.title.startswith("test_")]
MODULES = [block for block in LISTINGS if block not in TESTS]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the module path with every listing."""
    for block in LISTINGS:
        (tmp_path / block.title).write_text(block.text)
        monkeypatch.delitem(sys.modules, Path(block.title).stem, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_every_listing_is_a_file_of_its_own() -> None:
    """It has a name, and no two have the same."""
    names = [block.title for block in LISTINGS]
    assert (len(names) > 20, "" in names, len(set(names))) == (True, False, len(names))


def test_every_module_has_a_test() -> None:
    """Which is on the same page, and holds it to the contract."""
    checked = {
        match[1] for block in TESTS if "check_transform(" in block.text
        and (match := re.search(r"^from (\w+) import", block.text, re.MULTILINE))
    }
    assert sorted(Path(block.title).stem for block in MODULES if Path(block.title).stem not in checked) == []


def run_tests(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run pytest as an author would, with warnings as errors; the folder stays as it is."""
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:valkey"]
    return subprocess.run(
        [sys.executable, "-B", "-W", "error", "-m", "pytest", *options, *args],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=100)


@pytest.mark.parametrize("page", AUTHORS)
def test_the_tests_of_the_page_pass(page: str, folder: Path) -> None:
    """All of them."""
    result = run_tests(folder, *(block.title for block in TESTS if block.page == page))
    told = sum(block.text.count("\ndef test_") for block in TESTS if block.page == page)
    assert (result.returncode, f"{told} passed" in result.stdout) == (0, True), result.stdout + result.stderr


def test_the_test_of_the_example_passes() -> None:
    """The transform of ``examples/custom_transform`` has one, too."""
    result = run_tests(ROOT / "examples" / "custom_transform", "-c", os.devnull)
    assert (result.returncode, "2 passed" in result.stdout) == (0, True), result.stdout + result.stderr


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_a_package_gives_its_transforms_names(block: Block, folder: Path) -> None:
    """The entry points lead to the classes of the listings, and the package has their modules."""
    project = tomllib.loads(block.text)
    names = project["project"]["entry-points"]["shotover_gevent.transforms"]
    about = folder / f"{project['project']['name'].replace('-', '_')}-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: house-transforms\nVersion: 1.0\n")
    lines = [f"{name} = {target}" for name, target in names.items()]
    (about / "entry_points.txt").write_text("\n".join(["[shotover_gevent.transforms]", *lines, ""]))
    found = {name: Registry().find(name) for name in names}
    assert {name: f"{kind.__module__}:{kind.__name__}" for name, kind in found.items()} == names
    assert project["tool"]["setuptools"]["py-modules"] == [target.split(":")[0] for target in names.values()]


def test_the_rules_of_the_check_are_those_of_the_page() -> None:
    """Each rule has its row, in the order in which they are checked."""
    names = [rule.__name__.removeprefix("check_").replace("_", " ") for rule in contract.RULES]
    assert [row[0] for row in rows("docs/testing.rst", "The contract")] == names


def test_what_can_be_declared_is_on_the_page() -> None:
    """Each argument that allows something has its row in the second table."""
    arguments = inspect.signature(check_transform).parameters.values()
    declared = [argument.name for argument in arguments if argument.default is False]
    assert [row[0] for row in rows("docs/testing.rst", "The contract", 1)] == declared


def sample(page: str) -> str:
    """The sample of output of a page that has one."""
    [block] = [block for block in blocks("") if block.page == page]
    return block.text


def test_what_a_broken_line_shows_is_what_the_kit_says() -> None:
    """The sample of a failed transcript is a real one."""
    with pytest.raises(AssertionError) as caught:
        run_transcript([], """
            >  GET k
            >> GET k
            << [a b]
            <  [a "c"]
        """)
    assert str(caught.value) == sample("docs/testing.rst")


def test_a_mistake_in_an_entry_is_told_as_the_page_says(folder: Path) -> None:
    """With its line, by the rule of the transform itself."""
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "topology.yaml").write_text("""\
sources:
  - Valkey:
      name: "edge"
      listen_addr: "127.0.0.1:0"
      chain:
        - key_prefix.KeyPrefix: {name: "prefix", prefix: "app"}
        - NullSink: {name: "sink"}
""")
    problems = check_files(folder / "config.yaml", folder / "topology.yaml").problems
    report = ConfigError(problems).report().replace(f"{folder}/", "")
    assert report == sample("docs/write_a_transform.rst")
