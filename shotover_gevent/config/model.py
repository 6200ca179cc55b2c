"""The fields of ``config.yaml`` and of a source, and what is wrong with them beyond their types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from shotover_gevent.net.address import Address
from shotover_gevent.net.tls_settings import TlsAcceptor

# The unsigned 64 bits that Shotover's counts and seconds have.
Unsigned = Annotated[int, Field(ge=0, le=2**64 - 1)]


class GeneralConfig(BaseModel):
    """``config.yaml``: what to log, and where to serve metrics."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    main_log_level: str = Field(
        description="What to log: directives, separated by commas", examples=["info"])
    observability_interface: str | None = Field(
        default=None, description="Where to serve metrics and health: ip:port", examples=["127.0.0.1:9001"])

    _written: dict[str, str] = PrivateAttr(default_factory=dict)

    def note_variables(self, written: Mapping[str, str]) -> None:
        """Fields whose values came from variables; what is written for them is printed instead."""
        self._written.update(written)

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            yield name, self._written.get(name or "", value)

    @property
    def observability_address(self) -> Address | None:
        """Where to serve metrics; ``None`` when nothing is to be served."""
        interface = self.observability_interface
        return None if interface is None else socket_address(interface)

    def wrong_values(self) -> list[tuple[str, str]]:
        """Field and text for each value that is not what its field is for, as Shotover says it."""
        from shotover_gevent.logs import parse_directives

        wrong = []
        for field, check in (
            ("main_log_level", parse_directives),
            ("observability_interface", socket_address),
        ):
            value = getattr(self, field)
            try:
                if value is not None:
                    check(value)
            except ValueError as error:
                wrong.append((field, str(error)))
        return wrong


class SourceFields(BaseModel):
    """The fields of every source."""

    # The chain is read entry by entry, so it may be anything here.

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    name: str = Field(description="Names the source and its chain in logs and metrics")
    listen_addr: str = Field(
        description="ip:port, [ipv6]:port, host:port or unix:/path", examples=["127.0.0.1:6379"])
    connection_limit: Unsigned = Field(
        512, description="How many clients may be connected at the same time")
    hard_connection_limit: bool = Field(
        False, description="At the limit, close the listener rather than let clients wait")
    timeout: Unsigned | None = Field(
        None, description="After how many seconds without traffic a client is disconnected")
    tls: TlsAcceptor | None = Field(None, description="TLS toward clients; plain without it")
    chain: list[Any] = Field(description="The transforms, in the order in which requests pass them")


def socket_address(text: str) -> Address:
    """An ``ip:port`` or ``[ipv6]:port``. Raises ``ValueError`` in Rust's words for anything else."""
    # Imported here: it takes milliseconds, and only a configured interface needs it.
    from ipaddress import ip_address

    try:
        address = Address.parse(text)
        if ip_address(address.host).version == (6 if text.startswith("[") else 4):
            return address
    except ValueError:
        pass
    raise ValueError("invalid socket address syntax")


def listen_address(text: str) -> Address:
    """The address of a source; a host name is taken too. Raises ``ValueError`` saying what is wrong."""
    return Address.parse(text)
