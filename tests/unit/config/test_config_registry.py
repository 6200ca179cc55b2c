"""Where the class of a type name comes from."""

import sys
from importlib.metadata import EntryPoint

import pytest
from config_samples import Count, End, Pass, refused, source, sources

from shotover_gevent.chain.transform import TransformConfig
from shotover_gevent.config import registry as module
from shotover_gevent.config.registry import BUILT_IN, Registry, UnknownType
from shotover_gevent.errors import UsageError


@pytest.fixture
def entry_points(monkeypatch):
    """Stands in for installed packages: type name to module:Class."""
    installed = {}

    def found(*, group):
        return [EntryPoint(name, value, group) for name, value in installed.items()]

    monkeypatch.setattr("importlib.metadata.entry_points", found)
    return installed


def refusal_of(type_name, registry=None):
    with pytest.raises(UnknownType) as caught:
        (registry or Registry()).find(type_name)
    return (caught.value.message, caught.value.suggestion)


@pytest.mark.parametrize("type_name", sorted(BUILT_IN))
def test_every_built_in_transform_is_found(type_name):
    """The module exists, and the class has the name and the type name of its entry."""
    found = Registry().find(type_name)
    assert (issubclass(found, TransformConfig), found.__name__, found.type_name) == (
        True, type_name, type_name)


def test_no_transform_that_is_known_is_also_called_missing():
    """A name is either built in or not there yet."""
    assert module.NOT_YET & BUILT_IN.keys() == set()


def test_a_class_given_in_code_is_found_by_its_type_name_and_may_replace_a_built_in():
    """What the embedding program says goes first."""

    class Other(TransformConfig):
        type_name = "NullSink"

    registry = Registry([Other, Pass])
    assert [registry.find("NullSink"), registry.find("Pass")] == [Other, Pass]


def test_two_classes_of_one_type_name_are_refused():
    """One of them would never be used."""
    with pytest.raises(UsageError, match="^two transforms have the type name 'Pass'$"):
        Registry([Pass, Pass])


def test_an_entry_point_adds_a_type_name(entry_points):
    """An installed package needs no code to be found, nor to be listed."""
    entry_points["Mine"] = "config_samples:Count"
    registry = Registry()
    assert (registry.find("Mine"), "Mine" in registry.names()) == (Count, True)


def test_an_entry_point_does_not_replace_a_built_in(entry_points):
    """Installing a package changes no topology that does not name it."""
    entry_points["NullSink"] = "config_samples:Count"
    assert Registry().find("NullSink").__name__ == "NullSink"


def test_an_entry_point_may_provide_what_is_not_there_yet(entry_points):
    """A package can add a transform of Shotover that this version lacks."""
    entry_points["KafkaSinkCluster"] = "config_samples:Pass"
    assert Registry().find("KafkaSinkCluster") is Pass


def test_a_broken_entry_point_is_an_error_only_where_it_is_used(entry_points):
    """Other topologies start."""
    entry_points["Broken"] = "no_such_package:X"
    registry = Registry()
    assert registry.find("NullSink").terminating
    assert refusal_of("Broken", registry) == (
        "Broken cannot be imported: ModuleNotFoundError: No module named 'no_such_package'", None)


@pytest.mark.parametrize("type_name", ["config_samples.End", "config_samples:End"])
def test_a_dotted_name_is_imported(type_name):
    """Both ways to write a class are understood."""
    assert Registry().find(type_name) is End


@pytest.mark.parametrize(
    ("type_name", "message"),
    [
        ("no_such.Thing", "ModuleNotFoundError: No module named 'no_such'"),
        ("config_samples.Thing", "ImportError: the module config_samples has no Thing"),
        ("config_samples:", "ImportError: write package.module.Class or package.module:Class"),
        (".Thing", "ImportError: write package.module.Class or package.module:Class"),
        ("..a.Thing", "TypeError: the 'package' argument is required to perform a relative import "
         "for '..a'"),
    ],
)
def test_a_name_that_cannot_be_imported_says_why(type_name, message):
    """The cause is in the sentence."""
    assert refusal_of(type_name) == (f"{type_name} cannot be imported: {message}", None)


def test_a_module_that_fails_while_it_is_imported_is_a_located_problem(tmp_path, monkeypatch):
    """Whatever somebody else's module raises is told with the place of its name."""
    (tmp_path / "failing_transforms.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    name = "failing_transforms.Mine"
    assert refused(sources(source({name: {"name": "m"}}, {"End": {"name": "e"}}))) == [
        f"topology.yaml  sources[0].Valkey.chain[0].{name}: "
        f"{name} cannot be imported: ZeroDivisionError: division by zero"]


@pytest.mark.parametrize("type_name", ["os.path.join", "os:path", "builtins.dict"])
def test_what_is_no_transform_is_refused(type_name):
    """Any importable object can be named; only transforms are taken."""
    assert refusal_of(type_name) == (
        f"{type_name} is not a transform", "a transform is a subclass of TransformConfig")


def test_only_the_transforms_that_are_used_are_imported():
    """Listing the names imports nothing."""
    before = set(sys.modules)
    Registry().names()
    assert {name for name in set(sys.modules) - before if name.startswith("shotover_gevent")} == set()
