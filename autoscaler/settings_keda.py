"""Settings of KEDA's door."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from autoscaler.settings_types import Door, File, HeaderText, Port


class KedaSettings(Door):
    """KEDA's external scaler (gRPC)."""

    host: HeaderText = Field("127.0.0.1", description="Where it listens. 0.0.0.0 in a pod.")
    port: Port = Field(9443, description="Its port; 0 picks a free one.")
    tls: bool = Field(default=True, description="With the certificate of `serving.tls`; false: plain text.")
    client_ca_file: File | None = Field(
        None, description="CA (PEM) that must have signed the client's certificate (mTLS); empty: none is asked for."
    )
    strict: bool = Field(
        default=False,
        description="Refuse triggers with metadata keys nobody reads, so that such a ScaledObject cannot be made.",
    )

    @model_validator(mode="after")
    def _mutual(self) -> Self:
        if self.client_ca_file is not None and not self.tls:
            raise ValueError("client_ca_file: needs tls: true; without TLS there are no certificates to ask for")
        return self
