"""What is printed of a transform: its fields in words, and an example that is accepted."""

import pytest
from config_samples import SAMPLES
from pydantic import BaseModel, Field

from shotover_gevent.chain.steps import Steps
from shotover_gevent.chain.transform import TransformConfig
from shotover_gevent.config.check import check_files
from shotover_gevent.config.example import example_topology
from shotover_gevent.config.fields import FieldText, fields_of, summary
from shotover_gevent.config.registry import BUILT_IN, Registry
from shotover_gevent.config.topology import parse_topology


class Node(BaseModel):
    """A map inside."""

    rack: str
    broker_id: int = Field(3, lt=100)


class Everything(TransformConfig):
    """Has a ``field`` of each kind.

    And more to say.
    """

    nodes: list[Node]
    ratio: float = Field(gt=0, le=1)
    limits: dict[str, int]
    inner: Steps
    first_contact_points: list[str]
    is_loud: bool
    port: int = Field(1, description="Where\nto go")

    def subchains(self):
        """The chain inside."""
        return [("inner", self.inner)]


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_the_example_of_a_built_in_transform_is_accepted(name, tmp_path, monkeypatch):
    """What ``shotover-gevent transforms NAME`` prints passes the check, which builds the chains."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("main_log_level: info\n")
    (tmp_path / "topology.yaml").write_text(example_topology(Registry().find(name)))
    found = check_files("config.yaml", "topology.yaml")
    assert list(map(str, found.problems)) == []
    assert name in [step.type_name for step in found.topology.sources[0].chain]


# Coalesce has a rule that its fields do not tell.
@pytest.mark.parametrize(
    "transform", [*(each for each in SAMPLES if each.__name__ != "Coalesce"), Everything])
def test_an_example_is_made_of_the_model(transform):
    """Required fields of every type, with chains inside, make a topology that is accepted."""
    registry = Registry([transform])
    assert len(parse_topology(example_topology(transform, registry), registry).sources) == 1


def test_fields_are_told_in_words():
    """Types, bounds, defaults, and the fields of maps by the way to them."""
    assert fields_of(Everything)[1:] == [
        FieldText("nodes", "list of map", True, None, ""),
        FieldText("nodes[].rack", "text", True, None, ""),
        FieldText("nodes[].broker_id", "integer, less than 100", False, "3", ""),
        FieldText("ratio", "number, more than 0, at most 1", True, None, ""),
        FieldText("limits", "map to integer", True, None, ""),
        FieldText("inner", "chain", True, None, ""),
        FieldText("first_contact_points", "list of text", True, None, ""),
        FieldText("is_loud", "true or false", True, None, ""),
        FieldText("port", "integer", False, "1", "Where to go"),
    ]


def test_a_summary_is_the_first_sentence_without_markup():
    """The first paragraph of the class."""
    assert summary(Everything) == "Has a field of each kind."


def test_every_built_in_transform_says_what_it_does():
    """So that the list has no empty lines."""
    assert [name for name in BUILT_IN if not summary(Registry().find(name))] == []
