"""What the processor under the tests can do."""

from __future__ import annotations

import pytest

from tlserve.errors import ProcessorError
from tlserve.runtime.openvino import check_bfloat16


def _has_bfloat16() -> bool:
    try:
        check_bfloat16()
    except ProcessorError:
        return False
    return True


BFLOAT16 = _has_bfloat16()
needs_bfloat16 = pytest.mark.skipif(not BFLOAT16, reason="the processor has no bfloat16")


def here(*names: str) -> list[str]:
    """Leave out the backends that this processor cannot run."""
    return [name for name in names if BFLOAT16 or name != "openvino-bf16"]
