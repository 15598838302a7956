"""Client options from `KafkaSettings`, the same for every client of the broker."""

from __future__ import annotations

import ssl
from typing import Any

from faststream.kafka.security import parse_security
from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from shared.errors import ConfigurationError
from shared.settings import KafkaSettings


def bootstrap_servers(kafka: KafkaSettings) -> list[str]:
    """The brokers to ask first.

    Raises:
        ConfigurationError: none is set.
    """
    servers = [server.strip() for server in (kafka.bootstrap or "").split(",") if server.strip()]
    if not servers:
        raise ConfigurationError("no Kafka broker is set: give SIMILIS_KAFKA__BOOTSTRAP=host:port, or use `similis up`")
    return servers


def security(kafka: KafkaSettings) -> BaseSecurity | None:
    """How FastStream is to speak to the broker; None for plain text.

    Raises:
        ConfigurationError: a file cannot be read, or SASL is asked for without user and password.
    """
    if kafka.security_protocol == "PLAINTEXT":
        return None
    context = _ssl_context(kafka) if kafka.security_protocol.endswith("SSL") else None
    if not kafka.security_protocol.startswith("SASL"):
        return BaseSecurity(ssl_context=context, use_ssl=True)
    if kafka.sasl_username is None or kafka.sasl_password is None:
        raise ConfigurationError(
            f"SIMILIS_KAFKA__SECURITY_PROTOCOL={kafka.security_protocol} needs "
            "SIMILIS_KAFKA__SASL_USERNAME and SIMILIS_KAFKA__SASL_PASSWORD"
        )
    mechanism = {"PLAIN": SASLPlaintext, "SCRAM-SHA-256": SASLScram256, "SCRAM-SHA-512": SASLScram512}
    return mechanism[kafka.sasl_mechanism](
        username=kafka.sasl_username,
        password=kafka.sasl_password.get_secret_value(),
        ssl_context=context,
        use_ssl=context is not None,
    )


def client_options(kafka: KafkaSettings) -> dict[str, Any]:
    """Keyword arguments of any aiokafka client.

    Raises:
        ConfigurationError: as `bootstrap_servers` and `security`.
    """
    return {"bootstrap_servers": bootstrap_servers(kafka), **parse_security(security(kafka))}


def _ssl_context(kafka: KafkaSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=kafka.ssl_cafile)
        if kafka.ssl_certfile is not None:
            context.load_cert_chain(kafka.ssl_certfile, kafka.ssl_keyfile)
    except OSError as error:  # ssl.SSLError is one too
        raise ConfigurationError(f"cannot use Kafka's TLS files: {error}") from error
    return context
