"""The YAML reader: what scalars mean, where everything is, what is refused."""

import math

import pytest

from shotover_gevent.config import yaml
from shotover_gevent.config.document import Place
from shotover_gevent.config.yaml import read_yaml
from shotover_gevent.errors import ConfigError


def broken(raw):
    with pytest.raises(ConfigError) as caught:
        read_yaml(raw, "f.yaml")
    return [str(problem) for problem in caught.value.problems]


def test_plain_scalars_mean_what_yaml_1_2_makes_of_them():
    """Only null, true, false and numbers are not texts; what YAML 1.1 made of others is forgotten."""
    text = """
    [on, off, yes, no, y, Yes, 22:22, 012, -007, 1_000, 2001-01-01, =, 1e999, 0x, 0o8, 0xg, .,
     null, ~, true, True, FALSE, 0, 12, -3, +4, 0x1F, 0o17, 0b101, 1.5, .5, 1e3, 2., "12", '~']
    """
    assert read_yaml(text, "f").data == [
        "on", "off", "yes", "no", "y", "Yes", "22:22", "012", "-007", "1_000", "2001-01-01", "=",
        "1e999", "0x", "0o8", "0xg", ".",
        None, None, True, True, False, 0, 12, -3, 4, 31, 15, 5, 1.5, 0.5, 1000.0, 2.0, "12", "~",
    ]


def test_special_floats_are_numbers():
    """Infinity and not-a-number are floats, as in YAML 1.2."""
    inf, minus_inf, nan = read_yaml("[.inf, -.Inf, .nan]", "f").data
    assert (inf, minus_inf, math.isnan(nan)) == (math.inf, -math.inf, True)


def test_block_and_quoted_scalars_are_texts():
    """The style decides, not the content."""
    assert read_yaml("a: |\n  12\nb: >-\n  true\nc: ''\n", "f").data == {
        "a": "12\n", "b": "true", "c": ""}


def test_keys_are_the_text_that_is_written():
    """A key that looks like a number or a boolean is a text."""
    assert read_yaml("{1: a, true: b, null: c, '<<': d}", "f").data == {
        "1": "a", "true": "b", "null": "c", "<<": "d"}


def test_places_count_from_one():
    """Keys and values have a line and a column each."""
    document = read_yaml("a: 1\nbb:\n  - x\n  -   y: é\n      z: 2\n", "f")
    assert document.values == {
        (): Place(1, 1), ("a",): Place(1, 4), ("bb",): Place(3, 3), ("bb", 0): Place(3, 5),
        ("bb", 1): Place(4, 7), ("bb", 1, "y"): Place(4, 10), ("bb", 1, "z"): Place(5, 10),
    }
    assert document.keys == {
        ("a",): Place(1, 1), ("bb",): Place(2, 1),
        ("bb", 1, "y"): Place(4, 7), ("bb", 1, "z"): Place(5, 7),
    }


def test_what_is_not_there_has_the_place_of_its_owner():
    """A missing field is looked for where its owner begins."""
    document = read_yaml("a:\n  - b:\n      c: 1\n", "f")
    assert [document.place(path) for path in (("a", 0, "b", "d"), ("a", 1), ("e",))] == [
        Place(2, 5), Place(1, 1), Place(1, 1)]


def test_an_alias_is_a_copy_of_its_anchor():
    """Both have equal values; changing one leaves the other."""
    data = read_yaml("a: &x {k: [1]}\nb: *x\n", "f").data
    data["a"]["k"].append(2)
    assert data == {"a": {"k": [1, 2]}, "b": {"k": [1]}}


def test_a_byte_order_mark_is_skipped():
    """Editors of some systems write one."""
    assert read_yaml(b"\xef\xbb\xbfa: 1\n", "f").data == {"a": 1}


def test_every_repeated_or_merged_key_is_a_problem_and_the_rest_is_read():
    """The first of equal keys counts; all others are noted."""
    document = read_yaml("a: 1\nb: {c: 1, c: 2}\na: 3\nd:\n  <<: {x: 1}\n", "f.yaml")
    assert document.data == {"a": 1, "b": {"c": 1}, "d": {}}
    assert [str(problem) for problem in document.problems] == [
        "f.yaml:2:11  b.c: written twice; the first is in line 2",
        "f.yaml:3:1  a: written twice; the first is in line 1",
        "f.yaml:5:3  d[\"<<\"]: merge keys are not supported\n"
        "    write the fields out, or use an alias for a whole value",
    ]


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "f.yaml:1:1  the file is empty"),
        (b"# nothing\n", "f.yaml:1:1  the file is empty"),
        (b"a: 1\nb: \xff\n", "f.yaml:2:4  not UTF-8: the byte 0xff does not fit"),
        ("a: é\nb: \x01\n".encode(), "f.yaml:2:4  the character U+0001 is not allowed in YAML"),
        (b"a: 1\n--- {b: 1}\n", "f.yaml:2:1  a second document begins here; a file holds one"),
        (b"a:\n\tb: 1\n", "f.yaml:2:1  a tab cannot stand here; YAML is indented by spaces"),
        (b"a: !Tcp {}\n",
         "f.yaml:1:4  YAML tags such as !Tcp are not supported\n"
         '    write the type as a key: "Type: {...}"'),
        (b"a: !!int 3\n",
         "f.yaml:1:4  YAML tags such as tag:yaml.org,2002:int are not supported\n"
         '    write the type as a key: "Type: {...}"'),
        (b"a: 1\nb: c: 2\n",
         "f.yaml:2:5  not valid YAML: mapping values are not allowed here\n"
         '    check the indentation; quote a text that contains ": "'),
        (b"a: [1\nb: 2\n",
         "f.yaml:2:2  not valid YAML: expected ',' or ']', but got ':' "
         "(while parsing a flow sequence, begun in line 1)"),
        (b"a: *x\n", "f.yaml:1:4  not valid YAML: found undefined alias 'x'"),
        (b"a: &x [*x]\n", "f.yaml:1:4  an alias inside of its own anchor has no end"),
        (b"? [a]\n: 1\n", "f.yaml:1:3  a key must be a text, not a list or a map"),
        (b"a: " + b"9" * 41, "f.yaml:1:4  a number of more than 40 digits"),
        (b'a: "\\uD800"', "f.yaml:1:4  half of a surrogate pair is not a character"),
        (b"[" * 100, "f.yaml:1:61  nested deeper than 60 levels"),
        (b"- " * 100, "f.yaml:1:121  nested deeper than 60 levels"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(raw, problem):
    """One problem: reading cannot go on behind it."""
    assert broken(raw) == [problem]


def test_aliases_cannot_multiply_without_end():
    """A few lines of aliases of aliases stop at the bound of values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    assert broken("\n".join(lines)) == [
        "f.yaml:1:34  more than 50000 values, with aliases expanded"]


def test_aliases_cannot_nest_without_end():
    """Aliases count for the depth, though they are not indented."""
    lines = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 70)]
    assert broken("\n".join(lines)) == ["f.yaml:1:10  nested deeper than 60 levels"]


def test_a_file_that_is_too_large_is_not_parsed():
    """The bound is on bytes, before anything is looked at."""
    assert broken(b"[" * (yaml.MAX_FILE_BYTES + 1)) == [
        f"f.yaml  the file is larger than {yaml.MAX_FILE_BYTES} bytes"]
