"""The demo: pushes about 24 studies into the one-machine profile and shows what came of them.

    make phantoms ─┐
    real files   ──┴▶ C-STORE ─▶ (similis up) ─▶ topics ─▶ wait ─▶ HTTP search ─▶ table, JSON

It is a composition root and a user of the system from outside: it sends by DICOM, follows the
topics with a plain Kafka client and asks the query service by HTTP.
"""
