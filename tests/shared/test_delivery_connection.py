from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shared.delivery import EventConsumer, EventPublisher
from shared.delivery.connection import client_options
from shared.errors import BrokerUnavailableError, ConfigurationError
from shared.events import EVENT_CLASSES
from shared.settings import KafkaSettings

SCHEMAS = Path(__file__).parents[2] / "schemas"


def kafka(**given: Any) -> KafkaSettings:
    return KafkaSettings.model_validate({"bootstrap": "k1:9092, k2:9092"} | given)


def test_plain_text_needs_no_more_than_an_address() -> None:
    assert client_options(kafka()) == {"bootstrap_servers": ["k1:9092", "k2:9092"]}


def test_without_an_address_the_error_names_the_setting() -> None:
    with pytest.raises(ConfigurationError, match="SIMILIS_KAFKA__BOOTSTRAP"):
        client_options(kafka(bootstrap=None))


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_sasl_passes_user_password_and_mechanism(mechanism: str, protocol: str) -> None:
    options = client_options(
        kafka(security_protocol=protocol, sasl_mechanism=mechanism, sasl_username="u", sasl_password="p")
    )
    assert options["security_protocol"] == protocol
    assert options["sasl_mechanism"] == mechanism
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("u", "p")
    assert (options["ssl_context"] is not None) == (protocol == "SASL_SSL")


def test_sasl_without_a_password_is_refused_and_names_the_setting() -> None:
    with pytest.raises(ConfigurationError, match="SIMILIS_KAFKA__SASL_PASSWORD"):
        client_options(kafka(security_protocol="SASL_SSL", sasl_username="u"))


def test_tls_checks_the_brokers_certificate() -> None:
    context = client_options(kafka(security_protocol="SSL"))["ssl_context"]
    assert context.check_hostname
    assert context.verify_mode.name == "CERT_REQUIRED"


def test_a_missing_certificate_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="TLS"):
        client_options(kafka(security_protocol="SSL", ssl_cafile=tmp_path / "none.pem"))


async def test_a_publisher_starts_without_its_broker_and_says_so_on_publish() -> None:
    publisher = EventPublisher(KafkaSettings(bootstrap="127.0.0.1:1", send_timeout_s=1.0), source="test")
    await publisher.start()
    sample = next((SCHEMAS / "similis.study.received" / "samples").iterdir())
    with pytest.raises(BrokerUnavailableError, match="not acknowledged"):
        await publisher.publish("similis.study.received.v1", EVENT_CLASSES[0].model_validate_json(sample.read_bytes()))
    await publisher.stop()


async def test_settings_that_cannot_work_show_at_start() -> None:
    with pytest.raises(ConfigurationError):
        await EventPublisher(KafkaSettings(), source="test").start()
    with pytest.raises(ConfigurationError):
        await EventConsumer(KafkaSettings(), group="g", source="test").start()
