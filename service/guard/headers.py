"""The headers that every answer carries for the security of browsers."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable

_EVERYWHERE = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    # An answer is data: a browser that is made to show it as a page runs nothing of it.
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)
_NOT_KEPT = (*_EVERYWHERE, (b"cache-control", b"no-store"))


def secured(headers: Iterable[tuple[bytes, bytes]], path: str) -> list[tuple[bytes, bytes]]:
    """Add what an answer does not say itself."""
    found = list(headers)
    names = {name.lower() for name, _ in found}
    # The page's own files are the same for everybody, and large.
    added = _EVERYWHERE if path.startswith("/static_content/") else _NOT_KEPT
    found += [header for header in added if header[0] not in names]
    return found


def page_policy(page: str) -> str:
    """Write the Content-Security-Policy of the documentation page.

    Args:
        page: Its HTML; the script in it is admitted by its hash, and no other one.
    """
    script = page.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'self' 'sha256-{digest}'; connect-src 'self'; "
        # Swagger UI sets styles on its elements, and has small pictures in its style sheet.
        "style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
