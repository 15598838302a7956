"""Delivery over Kafka: at least once, in order per study, nothing lost, nothing blocking.

    connection.py   client options from the settings
    cloudevents.py  an event as a Kafka record, and back
    publisher.py    EventPublisher: acknowledged by every replica, or BrokerUnavailableError
    routing.py      what becomes of a record whose handler failed
    consumer.py     EventConsumer: FastStream subscribers on the topic and on its retry topic
    admin.py        create_topics
    metrics.py      every metric name

A handler's effect comes first, then its own outgoing event, then the commit of the offset. A crash
between them repeats the handler, so effects must be idempotent; the identifiers in `shared.ids` are.
"""

from shared.delivery.admin import TopicReport, create_topics
from shared.delivery.consumer import EventConsumer
from shared.delivery.publisher import EventPublisher

__all__ = ["EventConsumer", "EventPublisher", "TopicReport", "create_topics"]
