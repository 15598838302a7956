"""A worker process for the crash tests: its effect is a file per event, safe to repeat.

`python -m tests.integration.worker BOOTSTRAP TOPIC FOLDER HANG_ON WORK_S`: each event takes WORK_S; it
hangs after the effect of the event whose study UID ends with HANG_ON, before the commit.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from shared.delivery import EventConsumer
from shared.events import StudyReceived
from shared.topics import Topic
from tests.integration.support import kafka_settings


async def main(bootstrap: str, name: str, folder: Path, hang_on: str, work_s: float) -> None:
    topic = Topic(name, StudyReceived, partitions=2)

    async def handler(event: StudyReceived) -> None:
        await asyncio.sleep(work_s)
        with (folder / "calls").open("a") as calls:
            calls.write(f"{event.event_id} {os.getpid()}\n")
        (folder / f"effect-{event.event_id}").write_text(event.study_instance_uid)
        if event.study_instance_uid.endswith(hang_on):
            (folder / "hanging").touch()
            await asyncio.sleep(60)

    consumer = EventConsumer(kafka_settings(bootstrap), group=f"workers-{name}", source="worker")
    consumer.subscribe(topic, StudyReceived, handler)
    await consumer.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4], float(sys.argv[5])))
