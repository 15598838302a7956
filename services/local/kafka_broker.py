"""Apache Kafka on this machine: one KRaft node, loopback only, its data kept."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
import uuid
from pathlib import Path
from typing import Final

from services.local import kafka_jars
from services.local.child import Child
from services.local.ports import HOST, answers, choose_port
from shared.errors import BrokerUnavailableError, ConfigurationError

LOG4J: Final = kafka_jars.RESOURCES / "log4j2.properties"
START_TIMEOUT_S: Final = 90.0
STOP_TIMEOUT_S: Final = 30.0  # a broker with few partitions needs about a second

_PROPERTIES: Final = """\
# Written at each start by Similis: changes here are lost.
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port}
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers={host}:{controller_port}
log.dirs={data}
auto.create.topics.enable=false
delete.topic.enable=true
num.partitions=1
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# After a kill the controller waits this long before it takes the same broker back.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.cleaner.dedupe.buffer.size=1048577
# One node has no replica to recover from: what is acknowledged is on the disk.
log.flush.interval.messages=1
num.network.threads=2
num.io.threads=2
num.recovery.threads.per.data.dir=2
"""


class LocalKafka:
    """A Kafka broker as a child process.

    The port is kept in the data folder and taken again after a restart if it is free, so that
    clients which know the broker find it again.
    """

    volatile: Final = False
    stop_timeout_s: Final = STOP_TIMEOUT_S

    def __init__(
        self, folder: Path, *, jars: Path, log_dir: Path, port: int = 0, heap_mb: int = 512, log_bytes: int = 10_000_000
    ) -> None:
        self._folder = folder.resolve()
        self._jars = jars
        self._log_dir = log_dir.resolve()
        self._asked_port = port
        self._heap_mb = heap_mb
        self._log_bytes = log_bytes
        self._port = 0

    @property
    def bootstrap(self) -> str:
        """host:port for clients."""
        return f"{HOST}:{self._port}"

    def spawn(self) -> Child:
        """Start the broker, on a folder it formats if it is new. It answers some seconds later.

        Raises:
            ConfigurationError: a fixed port is taken, or Java or the folder cannot be used.
        """
        java = kafka_jars.java()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._log_dir.mkdir(parents=True, exist_ok=True)
        properties = self._write_properties()
        memory = [f"-Xms{min(128, self._heap_mb)}m", f"-Xmx{self._heap_mb}m"]
        # Starts faster and smaller; a few events a second are nothing for a broker.
        quick = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        logs = [f"-Dlog4j2.configurationFile={LOG4J}", f"-Dsimilis.log.dir={self._log_dir}"]
        class_path = ["-cp", f"{self._jars}/*"]
        if not (self._folder / "data" / "meta.properties").exists():
            self._format([java, "-Xmx256m", *quick, *logs, *class_path], properties)
        command = [
            java,
            *memory,
            *quick,
            *logs,
            "-Djava.awt.headless=true",
            *class_path,
            "kafka.Kafka",
            str(properties),
        ]
        return Child("kafka", command, log_file=self._log_dir / "kafka.log", log_bytes=self._log_bytes)

    def answers(self) -> bool:
        """Whether the broker takes connections."""
        return answers(self._port)

    def start(self) -> Child:
        """Start the broker and wait until it answers.

        Raises:
            BrokerUnavailableError: it ended, or did not answer in time.
            ConfigurationError: as `spawn`.
        """
        child = self.spawn()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.answers():
            if child.exit_code is not None or time.monotonic() > deadline:
                child.kill()
                child.wait(5.0)
                raise BrokerUnavailableError(f"Kafka does not start; see {self._log_dir}:\n{child.tail}")
            time.sleep(0.1)
        return child

    def _format(self, java: list[str], properties: Path) -> None:
        # A cluster id that begins with a dash would be taken for an option.
        cluster_id = "s" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
        tool = ["kafka.tools.StorageTool", "format", "--standalone", "--ignore-formatted"]
        done = subprocess.run(
            [*java, *tool, "-t", cluster_id, "-c", str(properties)],
            capture_output=True,
            text=True,
            timeout=START_TIMEOUT_S,
            check=False,
        )
        if done.returncode != 0:
            raise ConfigurationError(f"Kafka's folder {self._folder} cannot be formatted: {done.stdout}{done.stderr}")

    def _write_properties(self) -> Path:
        kept = self._kept_ports()
        self._port = choose_port("Kafka", asked=self._asked_port or self._port, kept=kept.get("broker", 0))
        controller_port = self._port
        while controller_port == self._port:
            controller_port = choose_port("Kafka's controller", asked=0, kept=kept.pop("controller", 0))
        ports = self._folder / "ports.json"
        temporary = ports.with_suffix(".tmp")
        temporary.write_text(json.dumps({"broker": self._port, "controller": controller_port}))
        os.replace(temporary, ports)
        path = self._folder / "server.properties"
        data = self._folder / "data"
        path.write_text(_PROPERTIES.format(host=HOST, port=self._port, controller_port=controller_port, data=data))
        return path

    def _kept_ports(self) -> dict[str, int]:
        try:
            kept = json.loads((self._folder / "ports.json").read_text())
            return {name: int(port) for name, port in kept.items()}
        except (OSError, ValueError, AttributeError):
            return {}
