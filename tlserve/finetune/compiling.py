"""Compiling what is trained, where that is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn

from tlserve.errors import TlserveError


def compiled(network: nn.Module) -> nn.Module:
    """Give a network that is compiled at its first step and shares the modules of this one."""
    # Each stage of training compiles anew; what was compiled for others would count against the
    # number of variants after which torch gives up and says little.
    torch.compiler.reset()
    return cast("nn.Module", torch.compile(network))


@contextmanager
def naming_compile_errors(compiles: bool) -> Iterator[None]:
    """Turn what the compiler cannot do into an error that says how to go without it.

    Args:
        compiles: Whether anything is compiled.

    Raises:
        TlserveError: Something could not be compiled.
    """
    if not compiles:
        # Importing the compiler takes a second.
        yield
        return
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    try:
        yield
    except (TorchDynamoException, FailOnRecompileLimitHit) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise TlserveError(
            f"--compile: the network could not be compiled: {lines[0]}",
            hint="Leave --compile away.",
        ) from error
