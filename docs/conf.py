"""How Sphinx builds these pages: ``sphinx-build -W -n -c docs . build/docs``, from the root.

The pages are plain reStructuredText, so that they can be read wherever the repository is shown. What
Sphinx needs beyond that is made here:

1. Its source folder is the root, since the README and the changes stand there.
2. The sections of ``docs/index.rst``, which are lists of links to pages, become the tables of contents.
3. A link to another page's file leads to that page.
4. The reference of the transforms is made of their models (``docs/reference.py``).
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

from reference import MARK, reference  # noqa: E402

from shotover_gevent import __version__  # noqa: E402

project = "shotover-gevent"
author = "the authors of shotover-gevent"
project_copyright = author
release = version = __version__

root_doc = "docs/index"
include_patterns = ["*.rst", "docs/*.rst"]
# A block without a language is a sample of output.
highlight_language = "none"
html_theme = "alabaster"
html_theme_options = {"description": "A database proxy that can be replaced while it runs",
                      "page_width": "1100px"}
html_show_sourcelink = False

# A section of the index: its title, the line below, and all up to the next one.
_SECTION = re.compile(r"^(\S.*)\n-+\n((?:(?!.*\n-+\n).*\n?)*)", re.MULTILINE)
_LINK = re.compile(r"^- `[^`]+ <([^`]+)\.rst>`_", re.MULTILINE)


def contents(index: str) -> str:
    """The index with a hidden ``toctree`` for each of its sections that has links to pages."""
    tables = [
        f".. toctree::\n   :hidden:\n   :caption: {title}\n\n"
        + "".join(f"   {posixpath.normpath(f'/docs/{page}')}\n" for page in pages)
        for title, body in _SECTION.findall(index) if (pages := _LINK.findall(body))
    ]
    return "\n\n".join([index, *tables])


class PageLinks(SphinxTransform):
    """Links to files of pages become links to the pages, which Sphinx checks."""

    default_priority = 400

    def apply(self, **kwargs: object) -> None:
        """Called for each page as it is read."""
        for node in list(self.document.findall(nodes.reference)):
            target = node.get("refuri", "")
            if "://" not in target and target.endswith(".rst"):
                link = addnodes.pending_xref(
                    "", *node.children, refdomain="std", reftype="doc", refexplicit=True,
                    reftarget=target.removesuffix(".rst"), refdoc=self.env.docname, refwarn=True)
                node.replace_self(link)


def complete(app: Sphinx, docname: str, source: list[str]) -> None:
    """Called with the text of each page before it is parsed."""
    if docname == root_doc:
        source[0] = contents(source[0])
    elif MARK in source[0]:
        source[0] = source[0].replace(MARK, reference())


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.add_transform(PageLinks)
    app.connect("source-read", complete)
