"""The fields ``tls`` of a source and of a sink. Nothing here touches a file, nor needs ``ssl``."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class TlsAcceptor(BaseModel):
    """TLS toward clients. With ``certificate_authority_path`` each client must show a certificate
    that one of those authorities has signed."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    certificate_path: str = Field(description="PEM file of our certificate, and of those that signed it")
    private_key_path: str = Field(description="PEM file of its private key, not encrypted")
    certificate_authority_path: str | None = Field(
        None, description="PEM file of the authorities that sign clients, which then must show a certificate")


class TlsConnector(BaseModel):
    """TLS toward a database, which must show a certificate that one of the authorities has signed.

    ``verify_hostname`` says whether it must also be for the host of the address. The certificate and
    its key, both or none, are what we show if the database asks.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    certificate_authority_path: str = Field(description="PEM file of the authorities to trust")
    certificate_path: str | None = Field(None, description="PEM file of the certificate that we show")
    private_key_path: str | None = Field(None, description="PEM file of its private key, not encrypted")
    verify_hostname: bool = Field(description="Whether its certificate must be for the host of the address")


TlsSettings = TlsAcceptor | TlsConnector
