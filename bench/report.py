"""A run as a text: for the terminal, for the README, and for the documentation."""

from __future__ import annotations

from bench import tables
from bench.results import Results

# Written as titles below the page's own.
UNDERLINE = "~"


def surroundings(results: Results) -> str:
    """What was measured, on what, in a few sentences."""
    found = results.document["environment"]
    versions = list(dict.fromkeys(
        [*results.document["settings"].get("tools", []),
         *(each["version"] for each in results.candidates if each["name"] != "none")]))
    commit = f"commit {found['commit']}{' with local changes' if found['dirty'] else ''}"
    return (
        f"Of {found['date']}, {commit}, on {found['cores']} cores of {found['cpu']}, {found['kernel']}, "
        f"Python {found['python']}, gevent {found['gevent']}; load before the run: {found['load_before']}. "
        f"{'; '.join(versions)}.")


def absences(results: Results) -> list[str]:
    """Who did not take part, what did not run, and that a run was shortened."""
    lines = [f"Did not take part: {name}: {reason}" for name, reason in results.missing.items()]
    lines += [f"Did not run: {failure}" for failure in results.document["failures"]]
    if results.document["settings"].get("quick"):
        lines.append("A quick run: it shows that everything works, its figures mean nothing.")
    return lines


def notes(results: Results) -> list[str]:
    """The numbers that a run chose for itself."""
    settings = results.document["settings"]
    found = [f"At most {settings['connections']:,} connections were opened, two descriptors each, "
             f"of {results.document['environment']['descriptor_limit']:,} that a process may have."]
    if "latency_rate" in settings:
        found.append(f"Latencies are those at {settings['latency_rate']:,} requests a second, half of what "
                     "the slowest candidate did (never more than 30,000).")
    return found


def legend(results: Results) -> str:
    """What the names mean."""
    return tables.rst(
        ["candidate", "what it is"], [[each["name"], each["title"]] for each in results.candidates])


def terminal(results: Results) -> str:
    """Everything, to be read at once."""
    blocks = [legend(results)]
    for title, table in tables.sections(results):
        blocks.append(f"{title}\n\n{table}")
    blocks += [f"Goals\n\n{tables.goals(results)}", "\n".join(notes(results)), surroundings(results),
               "\n".join(absences(results))]
    return "\n\n".join(block for block in blocks if block)


def readme(results: Results) -> str:
    """The table for the README: the candidates, and what most people ask for."""
    return "\n\n".join([
        tables.medians(results, tables.README), " ".join([surroundings(results), *notes(results)[1:]]),
        *absences(results)])


def page(results: Results, plots: list[str]) -> str:
    """The section of the documentation; ``plots`` are the paths of the pictures, from there."""
    blocks = [surroundings(results), *absences(results), *notes(results), legend(results),
              _titled("Goals", tables.goals(results))]
    blocks += [_titled(title, table) for title, table in tables.sections(results)]
    blocks += [f".. image:: {path}\n   :alt: {path}" for path in plots]
    return "\n\n".join(blocks)


def _titled(title: str, table: str) -> str:
    return f"{title}\n{UNDERLINE * len(title)}\n\n{table}"
