"""A real Kafka where there can be one: the same as that of the delivery tests."""

from __future__ import annotations

from tests.integration.conftest import kafka_jars_folder

__all__ = ["kafka_jars_folder"]
