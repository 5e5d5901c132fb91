"""Who asks: the name of an API key where there are keys, else an address."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from service.guard.keys import KeyRing
from service.guard.settings import GuardSettings

Headers = Iterable[tuple[bytes, bytes]]


class Callers:
    """Names clients.

    Args:
        settings: Say which keys there are.

    Raises:
        UsageError: The keys cannot be read.
    """

    def __init__(self, settings: GuardSettings) -> None:
        self._keys: KeyRing | None = None
        if settings.api_keys or settings.api_keys_file:
            self._keys = KeyRing(settings.api_keys, settings.api_keys_file)

    @property
    def need_keys(self) -> bool:
        """Whether only those who have a key may ask."""
        return self._keys is not None

    def name_of(self, key: bytes) -> str | None:
        """Name the key's client; ``None``: it is nobody's, or there are no keys."""
        return self._keys.name_of(key) if self._keys is not None and key else None

    def client_of(self, headers: Headers, host: str | None) -> str | None:
        """Name the client of a request; ``None``: it lacks a key that is known.

        Args:
            headers: Their names in small letters.
            host: The address that it came from, where there is one.
        """
        return self.name_of(key_in(headers)) if self.need_keys else address_of(host)


def address_of(host: str | None) -> str:
    """Name a client by its address.

    One subscriber has a whole /64 of IPv6, and would be as many clients.

    Args:
        host: The address; a socket of the machine's own file system has none.
    """
    if host is None:
        return "local"
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))


def key_in(headers: Headers) -> bytes:
    """Give the API key that a request brings; empty if none."""
    authorization = api_key = b""
    for name, value in headers:
        if name == b"authorization":
            authorization = value
        elif name == b"x-api-key":
            api_key = value
    scheme, _, credentials = authorization.partition(b" ")
    return credentials.strip() if scheme.lower() == b"bearer" else api_key.strip()
