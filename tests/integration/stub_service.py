"""Stands for a service in tests of the supervisor: answers /readyz, writes its addresses, notes its end.

The supervisor only knows a service by these, so what it does with the real ones shows here in a second.
"""

from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path


class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        return


def main(name: str, options: list[str]) -> None:
    if os.environ.get("STUB_REFUSES") == name:
        print("STUB_THING is not set", file=sys.stderr)
        sys.exit(2)
    given = dict(zip(options[::2], options[1::2], strict=True))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ready)
    url = f"http://127.0.0.1:{server.server_address[1]}"
    written: dict[str, object] = {"metrics": f"{url}/metrics", "pid": os.getpid()}
    if name == "listener":
        wanted = int(os.environ["SIMILIS_LISTENER__PORT"])
        dicom = socket.create_server(("127.0.0.1", wanted))
        written["dicom"] = {"host": "127.0.0.1", "port": dicom.getsockname()[1], "ae_title": "STUB"}
    if name == "query":
        written["http"] = url
    if name == "index":
        owner = socket.socket(socket.AF_UNIX)
        owner.bind(given["--socket"])
        owner.listen()

    ends = Path(os.environ["STUB_ENDS"])

    def end(*_: object) -> None:
        with ends.open("a") as log:
            log.write(f"{name}\n")
        os._exit(0)

    signal.signal(signal.SIGTERM, end)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    file = Path(given.get("--endpoint-file") or os.environ["SIMILIS_ENDPOINT_FILE"])
    temporary = file.with_suffix(".new")
    temporary.write_text(json.dumps(written))
    temporary.replace(file)
    print(f"{name} serves", flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
