"""The documentation builds as a site."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from shotover_gevent.config.fields import fields_of
from shotover_gevent.config.model import GeneralConfig, SourceFields
from shotover_gevent.config.registry import BUILT_IN, Registry

ROOT = Path(__file__).resolve().parents[1]

# The sections of docs/index.rst that have pages, in their order.
CAPTIONS = ["Start", "How-to", "Topics", "Reference", "Project"]


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    """The site below ``folder``; the checkout is left as it is."""
    return subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "-n", "-q", "--keep-going",
         "-d", str(folder / "doctrees"), "-c", "docs", ".", str(folder / "site")],
        cwd=ROOT, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False, timeout=110)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built pages."""
    folder = tmp_path_factory.mktemp("docs")
    result = build(folder)
    assert (result.returncode, result.stderr) == (0, "")
    return folder / "site"


def test_the_sections_of_the_index_are_the_tables_of_contents(site: Path) -> None:
    """Every section of the index that has pages is a caption of the navigation."""
    page = (site / "docs/index.html").read_text()
    assert re.findall(r'class="caption-text">([^<]*)', page) == CAPTIONS


def test_every_page_is_in_the_navigation(site: Path) -> None:
    """Each page can be reached from the index."""
    page = (site / "docs/index.html").read_text()
    pages = {os.path.relpath(path, ROOT / "docs").removesuffix(".rst") + ".html"
             for folder in (ROOT, ROOT / "docs") for path in folder.glob("*.rst")} - {"index.html"}
    listed = set(re.findall(r'class="toctree-l1"><a class="reference internal" href="([^"#]*)"', page))
    assert pages - listed == set()


def test_links_between_files_lead_to_pages(site: Path) -> None:
    """No page of the site links to the source of another one."""
    wrong = {
        path.name: found for path in site.rglob("*.html")
        if (found := re.findall(r'href="(?![a-z]+://)([^"]*\.rst)"', path.read_text()))
    }
    assert wrong == {}


def test_the_reference_has_every_field_of_every_transform(site: Path) -> None:
    """It is made of the models as they are now."""
    page = (site / "docs/reference_transforms.html").read_text()
    models = [GeneralConfig, SourceFields, *(Registry().find(name) for name in BUILT_IN)]
    fields = {field.name for model in models for field in fields_of(model)}
    titles = {f"<h2>{name}<" for name in BUILT_IN}
    assert [each for each in (*fields, *titles) if each not in page] == []
