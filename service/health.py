"""``python -m service.health``: is the service in this container ready? For Docker's HEALTHCHECK.

Port and TLS are those that the environment says, as ``tlserve serve`` reads it.
"""

from __future__ import annotations

import http.client
import os
import ssl
import sys
from collections.abc import Mapping

_SECONDS = 4


def check(environment: Mapping[str, str]) -> str:
    """Ask ``/readyz``.

    Returns:
        What is wrong; empty if it is ready.
    """
    port = int(environment.get("TLSERVE_HTTP_PORT") or 3000)
    if environment.get("TLSERVE_TLS_CERT"):
        # It is asked by an address that its certificate need not have.
        trusting = ssl._create_unverified_context()  # noqa: S323
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            "127.0.0.1", port, timeout=_SECONDS, context=trusting
        )
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_SECONDS)
    try:
        connection.request("GET", "/readyz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"It does not answer on port {port}: {error}."
    finally:
        connection.close()
    return "" if status == http.client.OK else f"/readyz answers {status}."


if __name__ == "__main__":
    problem = check(os.environ)
    sys.stdout.write(problem or "ready")
    sys.exit(1 if problem else 0)
