"""Results become goals, tables, pictures and documentation; none of their figures is typed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from docutils import nodes
from docutils.core import publish_doctree

from bench import goals, readme_table, tables
from bench.goals import GOALS, Verdict, judge
from bench.plot import draw, names
from bench.report import page, readme, terminal
from bench.results import Results

ENVIRONMENT = {
    "date": "2001-02-03 04:05", "commit": "abc1234", "dirty": True, "cpu": "a processor", "cores": 2,
    "kernel": "Linux 1", "python": "3.11.7", "gevent": "26.9.0", "descriptor_limit": 20000,
    "load_before": 0.1}


def some(**rates: list[float]) -> Results:
    """Results with rounds of the unpipelined scenario, in the order of the arguments."""
    results = Results()
    results.document["environment"] = dict(ENVIRONMENT)
    results.document["settings"] = {"connections": 9900, "quick": False, "tools": ["Redis 7"]}
    for name, rounds in rates.items():
        name = name.replace("_", "-")
        results.candidates.append({"name": name, "title": f"the {name}", "version": f"{name} 1.0"})
        for rate in rounds:
            results.add("unpipelined", name, {"rate": rate, "own_us": None})
    return results


def goal(candidate: str, text: str, scenario: str = "unpipelined") -> goals.Goal:
    """The one goal of that candidate with that text."""
    wanted = (candidate, text, scenario)
    (found,) = [each for each in GOALS if (each.candidate, each.text, each.scenario) == wanted]
    return found


@pytest.mark.parametrize(("rates", "expected"), [
    ([95.0, 1.0, 400.0], (0.95, True, "yes")), ([94.0, 94.0, 400.0], (0.94, False, "no"))])
def test_a_goal_is_judged_by_the_ratio_of_medians(
    rates: list[float], expected: tuple[float, bool, str]
) -> None:
    """0.95 of HAProxy's median is just enough."""
    verdict = judge(goal("tcp", "at least 0.95 x haproxy"), some(haproxy=[100.0, 90.0, 200.0], tcp=rates))
    assert (verdict.measured, verdict.is_met, verdict.text) == expected


def test_a_goal_whose_candidate_is_missing_stays_open() -> None:
    """It says who or what is missing, and is neither met nor missed."""
    results = some(valkey=[1.0])
    found = [judge(goal("valkey", text, scenario), results) for text, scenario in (
        ("at least 1.5 x shotover", "unpipelined"), ("at most 24 KiB", "idle"))]
    assert [(each.measured, each.is_met, each.text) for each in found] == [
        (None, None, "open: without shotover"), (None, None, "open: idle was not measured")]


def test_a_goal_for_a_number_is_judged_in_its_unit() -> None:
    """24 KiB are 24,576 bytes; zero errors are met by zero."""
    results = some(valkey=[1.0])
    results.add("idle", "valkey", {"bytes_per_connection": 24576.0})
    results.add("reload", "valkey", {"errors": 0, "pause_ms": 250.1})
    wanted = [("at most 24 KiB", "idle"), ("at most 0 errors", "reload"), ("at most 250 ms", "reload")]
    found = [judge(goal("valkey", *each), results) for each in wanted]
    assert [(each.measured, each.is_met) for each in found] == [(24.0, True), (0.0, True), (250.1, False)]


def test_a_cost_is_flat_if_the_most_is_near_the_least() -> None:
    """10, 11 and 12 us are within 20 %; one number alone shows nothing."""
    results = some(tcp=[1.0])
    results.add("connections", "tcp", {"own_us_10": 10.0, "p99_ms_10": 900.0})
    flat = goal("tcp", "at most 1.2 x the least", "connections")
    assert judge(flat, results).is_met is None
    results.add("connections", "tcp", {"own_us_100": 12.0, "own_us_1000": 11.0})
    assert judge(flat, results) == Verdict(flat, 1.2, True)


def test_every_goal_is_for_a_scenario_and_candidates_that_exist() -> None:
    """No goal stays open because of a wrong name."""
    from bench.candidates import CANDIDATES
    from bench.scenarios import SCENARIOS

    assert {each.scenario for each in GOALS} - set(SCENARIOS) == set()
    assert {name for each in GOALS for name in each.needs} - set(CANDIDATES) == set()
    assert [table.scenario for table in tables.TABLES if table.scenario not in SCENARIOS] == []


def test_a_table_has_medians_and_ratios() -> None:
    """Numbers are aligned right, names left; what was not measured is n/a, an empty row is left out."""
    results = some(haproxy=[50000.0, 52000.0, 90000.0], tcp=[49400.0], shotover=[])
    assert tables.medians(results, tables.TABLES[0].columns[:3]) == """\
=========  ======  =========  ==============
candidate  kreq/s  x haproxy  own CPU us/req
=========  ======  =========  ==============
haproxy      52.0       1.00             n/a
tcp          49.4       0.95             n/a
=========  ======  =========  =============="""


def test_costs_by_connections_are_in_the_order_of_the_numbers() -> None:
    """9,900 comes after 1,000."""
    results = some(tcp=[1.0])
    results.add("connections", "tcp", {"own_us_9900": 12.0, "own_us_1000": 11.0})
    assert tables.by_connections(results).splitlines()[1::2] == [
        "candidate  us at 1,000  us at 9,900", "tcp               11.0         12.0"]


def test_what_is_missing_or_failed_is_told() -> None:
    """In the terminal, in the README and on the page, with the reason; a quick run, too."""
    results = some(haproxy=[1.0])
    results.missing["nginx"] = "nginx is not on PATH"
    results.document["failures"].append("large: haproxy: no end")
    results.document["settings"]["quick"] = True
    for text in (terminal(results), readme(results), page(results, [])):
        assert "Did not take part: nginx: nginx is not on PATH" in text
        assert "Did not run: large: haproxy: no end" in text
        assert "its figures mean nothing" in text


def test_a_page_is_valid_and_has_every_table_and_picture() -> None:
    """Each measured scenario and the goals have a section, pictures come last, and nothing is a mistake."""
    results = some(haproxy=[1.0, 2.0], tcp=[1.5])
    results.add("reload", "valkey", {"errors": 0, "clients": 2000})
    text = f"Page\n====\n\nResults\n-------\n\n{page(results, ['bench/x.svg'])}\n"
    document = publish_doctree(text, settings_overrides={"halt_level": 2, "doctitle_xform": False})
    assert [node.astext() for node in document.findall(nodes.title)][2:] == [
        "Goals", "Throughput, one request in flight", "Reloads"]
    assert [node["uri"] for node in document.findall(nodes.image)] == ["bench/x.svg"]
    assert "commit abc1234 with local changes, on 2 cores of a processor" in document.astext()


def test_results_are_kept_as_they_are(tmp_path: Path) -> None:
    """Saved and loaded they are the same; saved again, the same bytes; another format is refused."""
    first, second = tmp_path / "new" / "a.json", tmp_path / "b.json"
    some(haproxy=[1.23456789]).save(first)
    Results.load(first).save(second)
    assert (first.read_bytes(), Results.load(first).values("unpipelined", "haproxy", "rate")) == (
        second.read_bytes(), [1.234568])
    second.write_text(first.read_text().replace('"format": 1', '"format": 99'))
    with pytest.raises(ValueError, match=r"b\.json is no result of this version of the benchmark"):
        Results.load(second)


def test_pictures_are_the_same_for_the_same_results(tmp_path: Path) -> None:
    """Two drawings have the same bytes, and the names that the documentation uses."""
    results = some(haproxy=[1.0, 2.0], tcp=[1.5])
    for candidate in ("haproxy", "tcp"):
        results.add("pipelined", candidate, {"rate": 5.0})
        results.add("connections", candidate, {"own_us_10": 5.0, "own_us_100": 6.0})
    drawn = [draw(results, tmp_path / folder) for folder in ("a", "b")]
    assert [path.name for path in drawn[0]] == names(results) == ["throughput.svg", "connections.svg"]
    assert [path.read_bytes() for path in drawn[0]] == [path.read_bytes() for path in drawn[1]]


# -- what is kept -------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["README.rst", "docs/performance.rst"])
def test_the_documentation_has_the_kept_results(file: str) -> None:
    """To the letter; when this fails, run: python -m bench.readme_table."""
    path = readme_table.ROOT / file
    expected = readme_table.blocks(Results.load(readme_table.RESULTS))[path]
    assert readme_table.between(path.read_text()) == expected


def test_the_kept_pictures_exist() -> None:
    """The page shows those of ``docs/bench``, and they were drawn."""
    folder = readme_table.RESULTS.parent
    found = sorted(path.name for path in folder.glob("*.svg"))
    assert found == sorted(names(Results.load(readme_table.RESULTS)))


def test_the_kept_results_are_not_of_a_quick_run() -> None:
    """Figures that mean nothing are not kept."""
    assert Results.load(readme_table.RESULTS).document["settings"]["quick"] is False


def test_only_what_is_between_the_markers_is_replaced() -> None:
    """The text around stays, and replacing twice is replacing once."""
    text = f"before\n\n{readme_table.BEGIN}\n\nold\n\nfigures\n\n{readme_table.END}\n\nafter\n"
    new = readme_table.replaced(text, "new")
    assert (readme_table.between(text), new, readme_table.replaced(new, "new")) == (
        "old\n\nfigures", text.replace("old\n\nfigures", "new"), new)


@pytest.mark.parametrize("text", [
    "", f"{readme_table.BEGIN}\n\nx\n", f"x\n\n{readme_table.END}\n",
    f"{readme_table.END}\n\n{readme_table.BEGIN}\n\nx\n",
    f"{readme_table.BEGIN}\n\nx\n\n{readme_table.END}\n" * 2])
def test_missing_markers_are_told(text: str) -> None:
    """A file whose markers are missing or doubled is not changed."""
    with pytest.raises(ValueError, match=re.escape("must be there once, in this order")):
        readme_table.replaced(text, "new")
