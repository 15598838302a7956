"""Exit 0 if the service in this container answers /livez with 200: the image's HEALTHCHECK.

The port is HEALTH_PORT, or the monitoring port where that is unset. Standard library only, and no
proxy from the environment is asked.
"""

from __future__ import annotations

import http.client
import os
import sys

TIMEOUT_S = 4.0


def is_alive(port: int) -> bool:
    """Whether http://127.0.0.1:`port`/livez answers 200 in time."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> int:
    """The exit status: 0 alive, 1 not."""
    port = os.environ.get("HEALTH_PORT") or os.environ.get("SIMILIS_MONITORING__PORT") or "9100"
    return 0 if is_alive(int(port)) else 1


if __name__ == "__main__":
    sys.exit(main())
