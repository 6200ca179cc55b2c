"""Both files checked at once, without starting anything: ``shotover-gevent check``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from os import fspath
from typing import TypeVar

from shotover_gevent.chain.build import BuildError
from shotover_gevent.chain.chain import ChainConfig
from shotover_gevent.chain.steps import all_steps
from shotover_gevent.chain.transform import TransformConfig
from shotover_gevent.config.document import Path
from shotover_gevent.config.load import Environ, FilePath, load_config
from shotover_gevent.config.model import GeneralConfig
from shotover_gevent.config.registry import Registry
from shotover_gevent.config.topology import SourceEntry, Topology, load_topology
from shotover_gevent.errors import ConfigError, Problem
from shotover_gevent.metrics import MetricStore
from shotover_gevent.net.address import Address

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Check:
    """What both files hold; ``None`` for one that cannot be used. Problems of the config come first."""

    config_file: str
    topology_file: str
    config: GeneralConfig | None
    topology: Topology | None
    problems: tuple[Problem, ...]

    def as_text(self) -> str:
        """For people: what was understood, or each problem with its place; then their number. No
        newline at the end."""
        number = len(self.problems)
        count = f"{number or 'no'} {'problem' if number == 1 else 'problems'}"
        return "\n".join([*self._understood(), *map(str, self.problems), count])

    def as_json(self) -> str:
        """For programs: ``{"problems": [...]}``, each with the fields of ``Problem``."""
        return json.dumps(
            {"problems": [asdict(problem) for problem in self.problems]}, ensure_ascii=False)

    def _understood(self) -> Iterator[str]:
        if self.config is None or self.topology is None:
            return
        interface = self.config.observability_interface
        metrics = "no metrics" if interface is None else f"metrics on {interface}"
        yield f"{self.config_file}: logs {self.config.main_log_level!r}, {metrics}"
        number = len(self.topology.sources)
        yield f"{self.topology_file}: {number} {'source' if number == 1 else 'sources'}"
        for source in self.topology.sources:
            yield f"    {_outline(source)}"


def check_files(
    config_path: FilePath, topology_path: FilePath, registry: Registry | None = None,
    environ: Environ | None = None,
) -> Check:
    """Read both files, whatever is wrong with the first, with the variables of ``environ``, by
    default those of this process."""
    problems: list[Problem] = []
    config = _tried(lambda: load_config(config_path, environ), problems)
    topology = _tried(
        lambda: _listens(_built(load_topology(topology_path, registry, environ)), config), problems)
    return Check(
        config_file=fspath(config_path),
        topology_file=fspath(topology_path),
        config=config,
        topology=topology,
        problems=tuple(problems),
    )


def _built(topology: Topology) -> Topology:
    """The topology, if every chain of it can be built; they are closed again. Raises ``ConfigError``."""
    failures: list[tuple[TransformConfig, Exception]] = []
    for source in topology.sources:
        try:
            ChainConfig(source.name, source.type_name, source.chain, MetricStore()).close()
        except BuildError as error:
            failures += error.failures
    if failures:
        raise topology.not_built(failures)
    return topology


def _listens(topology: Topology, config: GeneralConfig | None) -> Topology:
    """The topology, if no address is listened on twice: one of both could not be bound. Raises
    ``ConfigError``."""
    document, users = topology.document, {}
    if config is not None and config.observability_address is not None:
        users[str(config.observability_address)] = "observability_interface of the configuration"
    for index, source in enumerate(topology.sources):
        own: Path = ("sources", index, source.type_name, "listen_addr")
        wanted = [(source.listen_addr, own, f"source {source.name!r}")]
        for step in all_steps(source.chain):
            # So is the field called wherever a transform has an interface.
            if port := getattr(step, "switch_port", None):
                place = (*topology.paths.get(id(step), ()), "switch_port")
                wanted.append((Address("127.0.0.1", port), place, f"{step.type_name} {step.name!r}"))
        for address, path, user in wanted:
            other = users.setdefault(str(address), user)
            if other is not user and (address.is_unix or address.port):
                document.refuse(path, f"{other} listens on {address}, too", "choose another port")
    if problems := document.sorted_problems():
        raise ConfigError(problems)
    return topology


def _tried(load: Callable[[], T], problems: list[Problem]) -> T | None:
    try:
        return load()
    except ConfigError as error:
        problems += error.problems
        return None


def _outline(source: SourceEntry) -> str:
    chain = " -> ".join(f"{step.type_name} {step.name!r}" for step in source.chain)
    tls = " with TLS" if source.tls is not None else ""
    return f"{source.type_name} {source.name!r} on {source.listen_addr}{tls}: {chain}"
