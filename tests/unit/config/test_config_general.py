"""``config.yaml``."""

import pytest

from shotover_gevent.config.load import load_config, parse_config
from shotover_gevent.config.model import GeneralConfig
from shotover_gevent.errors import ConfigError
from shotover_gevent.net.address import Address


def load(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load_config(path)


def refusal(tmp_path, text):
    """The problems without the directory, and the error chain without it."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    return tuple(
        [str(text).replace(f"{tmp_path}/", "") for text in texts]
        for texts in (caught.value.problems, caught.value.chain)
    )


def test_a_configuration_has_log_directives_and_an_interface(tmp_path):
    """Both keys are read as they are written."""
    config = load(tmp_path, 'main_log_level: "info, shotover=debug"\n'
                            'observability_interface: "[::1]:9001"\n')
    assert (config, config.observability_address) == (
        GeneralConfig(main_log_level="info, shotover=debug", observability_interface="[::1]:9001"),
        Address("::1", 9001),
    )


@pytest.mark.parametrize("rest", ["", "observability_interface:", "observability_interface: null"])
def test_without_an_interface_nothing_is_served(tmp_path, rest):
    """Null is as good as absent."""
    config = load(tmp_path, f"main_log_level: off\n{rest}\n")
    assert (config.main_log_level, config.observability_address) == ("off", None)


@pytest.mark.parametrize(
    ("text", "problems", "cause"),
    [
        ("main_log_levle: info",
         ["config.yaml:1:1  main_log_level: missing field",
          "config.yaml:1:1  main_log_levle: unknown field\n    did you mean \"main_log_level\"?"],
         "main_log_level: missing field at line 1 column 1\n"
         "main_log_levle: unknown field at line 1 column 1"),
        ("main_log_level: [info]",
         ["config.yaml:1:17  main_log_level: found a list, wanted a text"],
         "main_log_level: found a list, wanted a text at line 1 column 17"),
        ("[]", ["config.yaml:1:1  found a list, wanted a map"],
         "found a list, wanted a map at line 1 column 1"),
        ("", ["config.yaml:1:1  the file is empty"], "the file is empty at line 1 column 1"),
        ("main_log_level: info\nmain_log_level: warn",
         ["config.yaml:2:1  main_log_level: written twice; the first is in line 1"],
         "main_log_level: written twice; the first is in line 1 at line 2 column 1"),
    ],
)
def test_what_cannot_be_parsed_is_two_causes(tmp_path, text, problems, cause):
    """The located problems, and the same in Shotover's manner."""
    assert refusal(tmp_path, text) == (
        problems, ["Failed to parse config file config.yaml", cause])


@pytest.mark.parametrize(
    "interface",
    ["localhost:9001", "9001", "127.0.0.1", ":9001", "127.0.0.1:70000", "::1:9001", "[127.0.0.1]:1",
     "127.0.0.01:1", "[::1]", "1.2.3:4"],
)
def test_an_interface_is_a_literal_address(tmp_path, interface):
    """Host names are refused, as in Shotover, and the text is Rust's."""
    assert refusal(tmp_path, f"main_log_level: info\nobservability_interface: '{interface}'\n") == (
        ["config.yaml:2:26  observability_interface: invalid socket address syntax"],
        ["invalid socket address syntax"],
    )


LEVEL_TEXT = (
    'error parsing level filter: expected one of "off", "error", "warn", "info", "debug", '
    '"trace", or a number 0-5: shotover=loud'
)


def test_the_first_bad_log_directive_is_told_and_the_interface_too(tmp_path):
    """All wrong values have a problem; the error chain has the first, where Shotover stops."""
    text = "main_log_level: info, shotover=loud,x=y\nobservability_interface: here\n"
    assert refusal(tmp_path, text) == (
        [f"config.yaml:1:17  main_log_level: {LEVEL_TEXT}",
         "config.yaml:2:26  observability_interface: invalid socket address syntax"],
        [LEVEL_TEXT],
    )


def test_a_file_that_cannot_be_opened_is_two_causes(tmp_path):
    """The texts of Shotover's error chain, outermost first."""
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path)
    assert caught.value.chain == (
        f"Couldn't open the config file {tmp_path}", "Is a directory (os error 21)")


def test_data_of_an_embedding_program_is_checked_the_same_way():
    """There is no file to point into."""
    with pytest.raises(ConfigError) as caught:
        parse_config({"main_log_level": 3})
    assert [str(problem) for problem in caught.value.problems] == [
        "<config>  main_log_level: found the number 3, wanted a text\n    put it in quotes"]
