"""Both files checked at once, without starting anything: ``shotover-gevent check``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from shotover_gevent.config.load import FilePath, load_config
from shotover_gevent.config.registry import Registry
from shotover_gevent.config.topology import load_topology
from shotover_gevent.errors import ConfigError, Problem


def check_files(
    config_path: FilePath, topology_path: FilePath, registry: Registry | None = None
) -> list[Problem]:
    """The problems of both files, those of the config first; empty when they can be used."""
    problems: list[Problem] = []
    for check in (lambda: load_config(config_path), lambda: load_topology(topology_path, registry)):
        try:
            check()
        except ConfigError as error:
            problems += error.problems
    return problems


def render_human(problems: Sequence[Problem]) -> str:
    """The problems for people: each with its place, then their number. No newline at the end."""
    number = f"{len(problems) or 'no'} {'problem' if len(problems) == 1 else 'problems'}"
    return "\n".join([*map(str, problems), number])


def render_json(problems: Sequence[Problem]) -> str:
    """The problems for programs: ``{"problems": [...]}``, each with the fields of ``Problem``."""
    return json.dumps({"problems": [asdict(problem) for problem in problems]}, ensure_ascii=False)
