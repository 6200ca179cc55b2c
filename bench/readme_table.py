"""Writes the kept results into the README and the documentation: ``python -m bench.readme_table``.

What is between the two marker comments of a file is replaced; the rest stays. So the figures there are
those of ``docs/bench/results.json``, never typed; a test compares them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from bench.machine import ROOT
from bench.plot import names
from bench.report import page, readme
from bench.results import Results

RESULTS = ROOT / "docs" / "bench" / "results.json"
BEGIN = ".. benchmark results: made by python -m bench.readme_table"
END = ".. end of the benchmark results"


def blocks(results: Results) -> dict[Path, str]:
    """The text that belongs between the markers of each file."""
    return {
        ROOT / "README.rst": readme(results),
        ROOT / "docs" / "performance.rst": page(results, [f"bench/{name}" for name in names(results)]),
    }


def between(text: str) -> str:
    """What is between the markers now. Raises ``ValueError`` without them."""
    head, begin, rest = text.partition(f"{BEGIN}\n\n")
    block, end, tail = rest.partition(f"\n\n{END}\n")
    if not begin or not end or BEGIN in rest or END in tail:
        raise ValueError(
            f"the lines {BEGIN!r} and {END!r} must be there once, in this order, blank lines inside")
    return block


def replaced(text: str, block: str) -> str:
    """The text with another block between its markers."""
    between(text)
    head, _, rest = text.partition(f"{BEGIN}\n\n")
    _, _, tail = rest.partition(f"\n\n{END}\n")
    return f"{head}{BEGIN}\n\n{block}\n\n{END}\n{tail}"


def main(arguments: list[str] | None = None) -> int:
    """Run it; returns the exit code.

    1: the results or the markers are missing, or ``--check`` found a difference.
    """
    parser = argparse.ArgumentParser(
        prog="python -m bench.readme_table", description="Write the kept results into the documentation.")
    parser.add_argument("--json", type=Path, default=RESULTS, metavar="FILE", help="default: %(default)s")
    parser.add_argument("--check", action="store_true", help="change nothing; 1 if something would change")
    options = parser.parse_args(arguments)
    try:
        changed = [path for path, block in blocks(Results.load(options.json)).items()
                   if write(path, block, options.check)]
    except (OSError, ValueError) as error:
        print(f"readme_table: {error}", file=sys.stderr)
        return 1
    for path in changed:
        print(f"{'differs' if options.check else 'written'}: {path.relative_to(ROOT)}")
    return 1 if changed and options.check else 0


def write(path: Path, block: str, is_check: bool) -> bool:
    """Put a block into a file, or only look; returns whether it differs from what is there."""
    text = path.read_text()
    try:
        new = replaced(text, block)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if new != text and not is_check:
        path.write_text(new)
    return new != text


if __name__ == "__main__":
    sys.exit(main())
