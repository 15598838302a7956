"""Delivery of DICOM results to a PACS: C-STORE, with Storage Commitment where it is offered.

    StudyExplained ─▶ record per destination (archive) ─▶ C-STORE ─▶ N-ACTION ─▶ N-EVENT-REPORT ─▶ done
                                                             └▶ again after a pause ... ─▶ dead

docs/explainer-dicom.md
"""

from services.explainer.delivery.outbox import DeliveryOutbox
from services.explainer.delivery.settings import ClientTls, DeliverySection, Destination

__all__ = ["ClientTls", "DeliveryOutbox", "DeliverySection", "Destination"]
