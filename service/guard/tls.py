"""TLS: the certificate and its key, checked before anything else is loaded."""

from __future__ import annotations

import ssl
from pathlib import Path

from service.guard.settings import GuardSettings
from tlserve.errors import UsageError


def context(settings: GuardSettings) -> ssl.SSLContext | None:
    """Load the certificate; ``None`` where none was given.

    Raises:
        UsageError: A file is missing or is not what it should be, or the two do not match.
    """
    certificate, key = settings.tls_cert, settings.tls_key
    if certificate is None:
        if key is not None:
            raise UsageError("tls-key is given, but no tls-cert.", hint="Give both.")
        return None
    for option, path in (("tls-cert", certificate), ("tls-key", key)):
        if path is not None:
            _check_readable(option, path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        tls.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        raise _explained(error, certificate, key) from error
    return tls


def _check_readable(option: str, path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise UsageError(
            f"{option}: cannot read {path}: {error.strerror}.",
            hint="Both are PEM files.",
        ) from error


def _no_password() -> str:
    # Without this, OpenSSL would ask for one on the terminal.
    raise UsageError(
        "The TLS key is protected by a password.",
        hint="Write one without: openssl pkey -in key.pem -out plain.pem",
    )


def _explained(error: ssl.SSLError, certificate: Path, key: Path | None) -> UsageError:
    if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
        return UsageError(
            f"The TLS key {key or certificate} does not belong to the certificate {certificate}.",
            hint="Give the key that the certificate was requested with.",
        )
    files = f"{certificate} and {key}" if key is not None else f"{certificate}, without a tls-key,"
    return UsageError(
        f"{files} cannot be used for TLS: {error.reason or error}.",
        hint="Both are PEM files; the certificate may have those of its issuers after it.",
    )
