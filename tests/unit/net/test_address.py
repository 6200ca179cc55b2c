"""Addresses are read and printed as they stand in a topology."""

import pytest

from shotover_gevent.net.address import Address


@pytest.mark.parametrize(
    ("text", "host", "port", "path"),
    [
        ("127.0.0.1:6379", "127.0.0.1", 6379, ""),
        ("[::1]:0", "::1", 0, ""),
        ("db.example:65535", "db.example", 65535, ""),
        ("unix:/run/proxy.sock", "", 0, "/run/proxy.sock"),
    ],
)
def test_an_address_is_read_and_printed_back(text, host, port, path):
    """Reading and printing are inverse."""
    address = Address.parse(text)
    assert (address.host, address.port, address.path, str(address)) == (host, port, path, text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("localhost", "'localhost' has no port; write host:port, e.g. 10.0.0.1:9042"),
        (":80", "':80' has no port; write host:port, e.g. 10.0.0.1:9042"),
        ("::1:80", "'::1:80': put an IPv6 address in brackets, e.g. [::1]:9042"),
        ("h:70000", "'h:70000': '70000' is not a port; a port is a number from 0 to 65535"),
        (
            "unix:proxy.sock",
            "'unix:proxy.sock': the path of a Unix socket begins with /, e.g. unix:/run/proxy.sock",
        ),
        (
            "unix:/" + "x" * 107,
            f"'unix:/{'x' * 107}': the path of a Unix socket has at most 107 bytes",
        ),
        ("h:+1", "'h:+1': '+1' is not a port; a port is a number from 0 to 65535"),
    ],
)
def test_a_bad_address_says_what_is_wrong(text, reason):
    """The message tells how to write it."""
    with pytest.raises(ValueError) as caught:
        Address.parse(text)
    assert str(caught.value) == reason
