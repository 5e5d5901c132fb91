"""One bundle and one server for all tests of the service."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.service import bundle as bundles
from tests.service.server import Server, running
from tlserve.bundle import Bundle
from tlserve.runtime import Predictor


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundles.write(tmp_path_factory.mktemp("models") / "insects")


@pytest.fixture(scope="session")
def predictor(bundle: Bundle) -> Predictor:
    """The same bundle in this process: what the service must answer."""
    return Predictor.load(bundle)


@pytest.fixture(scope="session")
def server(bundle: Bundle) -> Iterator[Server]:
    with running(bundle.path) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client
