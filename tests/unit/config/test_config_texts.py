"""What is wrong with a topology as a whole, in Shotover's exact words."""

import pytest
from config_samples import SAMPLES, Count, Fork, read, refusal, source, sources

from shotover_gevent.errors import render

END = {"End": {"name": "end"}}


def text_of(*entries):
    (text,) = refusal(sources(*entries)).chain
    return text


def test_a_chain_cannot_be_empty():
    """An empty chain is told below the name of its source and of itself."""
    assert text_of(source()) == """\
Topology errors
edge source:
  edge chain:
    Chain cannot be empty
"""


def test_the_last_transform_must_be_terminating():
    """A chain that ends in a transform is told which one."""
    assert text_of(source({"Pass": {"name": "p"}}, name="valkey")) == """\
Topology errors
valkey source:
  valkey chain:
    Non-terminating Transform Pass named "p" is last in chain. Last Transform must be terminating.
"""


def test_terminating_transforms_must_be_last():
    """Every misplaced step is told, in the order of the chain, position before own problems."""
    chain = (
        {"End": {"name": "one"}}, {"Coalesce": {"name": "two"}}, {"ValkeyEnd": {"name": "three"}},
        {"Coalesce": {"name": "four"}},
    )
    assert text_of(source(*chain)) == """\
Topology errors
edge source:
  edge chain:
    Terminating Transform End named "one" is not last in chain. Terminating Transform must be last in chain.
    Coalesce:
      Provide at least one of:
      * count
    
      But none were.
    Terminating Transform ValkeyEnd named "three" is not last in chain. Terminating Transform must be last in chain.
    Non-terminating Transform Coalesce named "four" is last in chain. Last Transform must be terminating.
    Coalesce:
      Provide at least one of:
      * count
    
      But none were.
"""  # noqa: W293


def test_every_level_of_sub_chains_is_indented_by_two():
    """A transform with sub-chains is a header, whatever number of its chains is wrong."""
    inner = {"Fork": {"name": "in", "chain": [{"Pass": {"name": "p"}}]}}
    fork = {"Fork": {"name": "out", "chain": [inner, END], "mismatch": []}}
    assert text_of(source(fork, {"End": {"name": "last"}})) == """\
Topology errors
edge source:
  edge chain:
    Fork:
      out chain:
        Fork:
          in chain:
            Non-terminating Transform Pass named "p" is last in chain. Last Transform must be terminating.
      out.mismatch chain:
        Chain cannot be empty
"""


def test_own_rules_and_sub_chains_share_a_header():
    """What a transform says of itself comes first, then its sub-chains, below one header."""

    class Picky(Fork):
        def problems(self):
            return ["Picky:", "  never pleased"]

    fork = {"Picky": {"name": "f", "chain": []}}
    error = refusal(sources(source(fork, END)), [*SAMPLES, Picky])
    assert error.chain == ("""\
Topology errors
edge source:
  edge chain:
    Picky:
      never pleased
      f chain:
        Chain cannot be empty
""",)


def test_names_are_unique_in_three_namespaces():
    """Duplicate sources, transforms, chains, in this order; names sorted, usages in file order."""
    first = source(
        {"Pass": {"name": "p1"}},
        {"Fork": {"name": "copy", "chain": [{"Pass": {"name": "p1"}}, {"End": {"name": "a"}}]}},
        {"Fork": {"name": "edge", "chain": [{"End": {"name": "b"}}]}},
        {"End": {"name": "a"}},
    )
    second = source({"End": {"name": "copy2"}})
    assert text_of(first, second) == """\
Topology errors
Duplicate source names detected:
  "edge" used by:
    source[0] "edge"
    source[1] "edge"
Duplicate transform names detected:
  "a" used by:
    Transform[1] End named "a" in source[0] "edge" chain "edge" -> subchain "copy" (from Transform Fork named "copy")
    Transform[3] End named "a" in source[0] "edge" chain "edge"
  "p1" used by:
    Transform[0] Pass named "p1" in source[0] "edge" chain "edge"
    Transform[0] Pass named "p1" in source[0] "edge" chain "edge" -> subchain "copy" (from Transform Fork named "copy")
Duplicate chain names detected:
  "edge" used by:
    root chain for source[0] "edge"
    chain "edge" at source[0] "edge" chain "edge" -> subchain "edge" (from Transform Fork named "edge")
    root chain for source[1] "edge"
"""


def test_a_transform_may_have_the_name_of_a_source():
    """The namespaces are separate."""
    topology = read(sources(source({"Pass": {"name": "edge"}}, END)))
    assert [step.name for step in topology.sources[0].chain] == ["edge", "end"]


def test_copies_of_a_sub_chain_count_once():
    """One entry of the file is one transform, however often it is run."""
    copies = {"Copies": {"name": "map", "parallelism": 3, "chain": [{"Pass": {"name": "p"}}]}}
    assert text_of(source(copies)) == """\
Topology errors
edge source:
  edge chain:
    Copies:
      map[0] chain:
        Non-terminating Transform Pass named "p" is last in chain. Last Transform must be terminating.
"""


def test_names_are_printed_in_rust_quotes():
    """Quotes, backslashes and what cannot be printed are escaped."""
    assert text_of(source({"Pass": {"name": 'a"\\\n\x7fé'}})) == """\
Topology errors
edge source:
  edge chain:
    Non-terminating Transform Pass named "a\\"\\\\\\n\\u{7f}é" is last in chain. Last Transform must be terminating.
"""


def test_a_protocol_that_does_not_fit_is_all_that_a_source_is_told():
    """As in Shotover: no header, the first misfit only, nothing of the rest of that source."""
    fork = {"Fork": {"name": "f", "chain": [{"ValkeyEnd": {"name": "in"}}]}}
    error = refusal(sources(
        source(fork, {"ValkeyEnd": {"name": "v"}}, {"Pass": {"name": "p"}}, kind="Tcp"),
        source(name="other"),
    ))
    assert error.chain == ("""\
Topology errors
Transform ValkeyEnd requires upchain protocol to be one of [Valkey] but was Tcp
other source:
  other chain:
    Chain cannot be empty
""",)
    assert [(problem.path, problem.message.split(" ")[0]) for problem in error.problems] == [
        ("sources[0].Tcp.chain[0].Fork.chain[0].ValkeyEnd", "Transform"),
        ("sources[0].Tcp.chain[1].ValkeyEnd", "Transform"),
        ("sources[0].Tcp.chain[1].ValkeyEnd", "Terminating"),
        ("sources[0].Tcp.chain[2].Pass", "Non-terminating"),
        ("sources[1].Valkey.chain", "Chain"),
    ]


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "h:-1", ":1", "::1:6379"])
def test_a_listening_address_without_a_port_is_all_that_a_source_is_told(address):
    """As in Shotover: no header, nothing of the chain."""
    assert text_of(source({"Pass": {"name": "p"}}, listen_addr=address)) == (
        "Topology errors\n"
        f'Invalid listening address "{address}", '
        "must follow the format ip_address:port e.g. 10.0.0.1:9042\n"
    )


def test_the_rendered_report_is_the_one_that_users_know():
    """One cause, indented by four, with the newline that ends it."""
    assert render("Failed to start shotover", refusal(sources(source())).chain) == """\
Failed to start shotover

Caused by:
    Topology errors
    edge source:
      edge chain:
        Chain cannot be empty
    """


def test_one_object_used_twice_is_two_transforms_with_one_name():
    """An embedding program cannot share a step between chains."""
    shared = Count(name="c", counter_name="x")
    assert text_of(source(shared, shared, END)) == """\
Topology errors
Duplicate transform names detected:
  "c" used by:
    Transform[0] Count named "c" in source[0] "edge" chain "edge"
    Transform[1] Count named "c" in source[0] "edge" chain "edge"
"""
