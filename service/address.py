"""The address that the service listens on."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket

from service.guard.settings import BACKLOG
from tlserve.errors import ServiceError, UsageError


def listen(host: str, port: int, count: int = 1) -> list[socket.socket]:
    """Listen on an address.

    Args:
        host: The address, or its name.
        port: The port; 0 for a free one.
        count: How many sockets; the kernel spreads the connections over them.

    Raises:
        UsageError: There is no such host or port.
        ServiceError: It cannot be listened on.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"The port must be 0 to 65535, not {port}.")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise UsageError(
            f"Unknown host {host!r}: {error.strerror}.",
            hint="Use 127.0.0.1 for this machine only, 0.0.0.0 for all of its addresses.",
        ) from error
    try:
        first = socket.create_server(address[:2], family=family, backlog=BACKLOG)
        if count == 1:
            return [first]
        # Sockets that share a port would share it with another service of this user, too, and
        # nobody would notice: whether it is free, one that does not share it has found out.
        place = first.getsockname()[:2]
        first.close()
        return [
            socket.create_server(place, family=family, backlog=BACKLOG, reuse_port=True)
            for _ in range(count)
        ]
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ServiceError(
                f"Port {port} is in use on {host}.",
                hint="Stop what listens there, or choose another with --port; 0 finds a free one.",
            ) from error
        raise ServiceError(
            f"Cannot listen on {host}, port {port}: {os.strerror(error.errno or 0)}.",
            hint="Use an address of this machine, and a port from 1024 upwards.",
        ) from error


def reachable(host: str) -> str:
    """Name the address at which this machine reaches what listens on ``host``."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104


def url(host: str, port: int, *, secure: bool) -> str:
    """Write the service's URL."""
    address = reachable(host)
    scheme = "https" if secure else "http"
    return f"{scheme}://[{address}]:{port}" if ":" in address else f"{scheme}://{address}:{port}"


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine reaches a socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback
