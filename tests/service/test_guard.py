"""Keys, rates, origins, hosts and TLS, through the real server."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from service.guard import keys
from tests.service import bundle as bundles
from tests.service.server import Server, failing, running
from tests.service.test_problems import assert_problem
from tlserve.bundle import Bundle

ORIGIN = "https://page.example"
OPENSSL = shutil.which("openssl") or ""
needs_openssl = pytest.mark.skipif(not OPENSSL, reason="there is no openssl command")
CLOSED = (
    *(("GET", path) for path in ("/", "/metrics", "/openapi.json", "/docs.json", "/schema.json")),
    *(("GET", path) for path in ("/healthz", "/nowhere", "/static_content/swagger-ui.css")),
    *(("POST", path) for path in ("/predict", "/livez", "/v2/health/live", "/predict/submit")),
    ("OPTIONS", "/predict"),
)


@dataclass
class Guarded:
    server: Server
    key: str
    file: Path

    def client(self, **headers: str) -> httpx.Client:
        client = self.server.client()
        client.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
        return client


@pytest.fixture(scope="module")
def guarded(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    file = tmp_path_factory.mktemp("keys") / "keys"
    key, line = keys.make("phone")
    file.write_text(line)
    options = ("--api-keys", file, "--cors-origin", ORIGIN, "--allowed-host", "127.0.0.1")
    with running(bundle.path, *options) as server:
        yield Guarded(server, key, file)
    assert not any(key in line for line in server.log)
    assert not any("Traceback" in line for line in server.log)


def bearer(guarded: Guarded) -> httpx.Client:
    return guarded.client(Authorization=f"Bearer {guarded.key}")


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_without_a_key_nothing_but_the_probes_is_open(
    guarded: Guarded, method: str, path: str
) -> None:
    with guarded.client() as client:
        response = client.request(method, path)
        problem = assert_problem(response, 401, "Unauthorized", "no API key")
        assert "X-API-Key" in problem["hint"]
        assert response.headers["www-authenticate"] == 'Bearer realm="tlserve"'
        wrong = client.request(method, path, headers={"X-API-Key": keys.make("phone")[0]})
        assert_problem(wrong, 401, "Unauthorized", "not one that is known")
        assert "invalid_token" in wrong.headers["www-authenticate"]


def test_probes_need_neither_a_key_nor_a_name(guarded: Guarded) -> None:
    with guarded.client(Host="10.1.2.3") as client:
        assert client.get("/livez").status_code == 200
        assert client.get("/readyz").status_code == 200
        assert client.get("/v2/health/live").status_code in (200, 404)


def test_a_key_opens_in_either_header(guarded: Guarded) -> None:
    image = bundles.image(0)
    for headers in (
        {"Authorization": f"Bearer {guarded.key}"},
        {"Authorization": f"bearer {guarded.key}"},
        {"X_API_Key": guarded.key},
    ):
        with guarded.client(**headers) as client:
            assert client.post("/predict", content=image).status_code == 200
            assert "tlserve_refused_total" in client.get("/metrics").text


def test_a_large_body_without_a_key_is_answered_and_not_read(guarded: Guarded) -> None:
    with guarded.client() as client:
        for _ in range(3):
            assert client.post("/predict", content=bytes(15_000_000)).status_code == 401
        assert client.get("/livez").status_code == 200


@pytest.mark.parametrize("path", ["/predict", "/nowhere", "/v2/models/insects/infer"])
@pytest.mark.parametrize("kind", ["application/vnd.bentoml+pickle", "Application/X-Pickle; a=b"])
def test_pickles_are_refused_everywhere(guarded: Guarded, path: str, kind: str) -> None:
    with bearer(guarded) as client:
        response = client.post(path, content=b"\x80\x04.", headers={"Content-Type": kind})
    assert_problem(response, 415, "UnsupportedType", "Pickled")


def test_other_names_of_the_host_are_refused(guarded: Guarded) -> None:
    with bearer(guarded) as client:
        response = client.get("/openapi.json", headers={"Host": "rebound.example:3000"})
    assert_problem(response, 421, "UnknownHost", "rebound.example")


def test_pages_of_the_origin_may_ask_and_others_may_not(guarded: Guarded) -> None:
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    with guarded.client() as client:
        preflight = client.options("/predict", headers={"Origin": ORIGIN, **asked})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == ORIGIN
        assert "authorization" in preflight.headers["access-control-allow-headers"].lower()
        other = client.options("/predict", headers={"Origin": "https://other.example", **asked})
        assert other.status_code == 400
        assert "access-control-allow-origin" not in other.headers
        # A page can read why it was refused.
        refused = client.post("/predict", headers={"Origin": ORIGIN})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == ORIGIN


def test_every_answer_has_security_headers(guarded: Guarded) -> None:
    with bearer(guarded) as client:
        image = bundles.image(0)
        for response in (
            client.post("/predict", content=image),
            client.post("/predict", content=b"x"),
            client.get("/nowhere"),
            client.get("/livez"),
        ):
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["referrer-policy"] == "no-referrer"
            assert response.headers["cache-control"] == "no-store"
            assert "default-src 'none'" in response.headers["content-security-policy"]


def test_the_page_may_run_its_own_script_only(guarded: Guarded) -> None:
    with bearer(guarded) as client:
        page = client.get("/")
        policy = page.headers["content-security-policy"]
        sources = re.findall(r'(?:src|href)="\./([^"]+)"', page.text)
        assert len(sources) == 2
        for source in sources:
            assert client.get(f"/{source}").status_code == 200
    scripts = re.search(r"script-src ([^;]+)", policy)
    assert scripts
    assert "'self' 'sha256-" in scripts[1]
    assert "unsafe" not in scripts[1]


def test_keys_change_without_a_restart(guarded: Guarded) -> None:
    before = guarded.file.read_text()
    key, line = keys.make("tablet")
    with guarded.client(Authorization=f"Bearer {key}") as client:
        assert client.get("/openapi.json").status_code == 401
        guarded.file.write_text(f"{before}\n{line}\n")
        assert status_within(client, 200, 5)
        guarded.file.write_text("broken")
        time.sleep(1.2)
        assert client.get("/openapi.json").status_code == 200
        guarded.file.write_text(before)
        assert status_within(client, 401, 5)
    assert any("the earlier ones stay" in text for text in guarded.server.log)


def status_within(client: httpx.Client, status: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if client.get("/openapi.json").status_code == status:
            return True
        time.sleep(0.05)
    return False


def test_who_asks_too_often_has_to_wait(bundle: Bundle) -> None:
    made = {name: keys.make(name) for name in ("one", "two")}
    environment = {"TLSERVE_API_KEYS": ",".join(line for _, line in made.values())}
    options = ("--rate", "0.5", "--burst", "3")
    with running(bundle.path, *options, environment=environment) as server:
        with server.client() as client:
            client.headers["X-API-Key"] = made["one"][0]
            answers = [client.get("/openapi.json") for _ in range(5)]
            assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
            assert [a.headers["ratelimit-remaining"] for a in answers] == ["2", "1", "0", "0", "0"]
            assert_problem(answers[3], 429, "TooManyRequests", "0.5 requests a second")
            assert answers[3].headers["retry-after"] in ("1", "2")
            assert {client.get("/livez").status_code for _ in range(9)} == {200}
            client.headers["X-API-Key"] = made["two"][0]
            assert client.get("/openapi.json").status_code == 200
        with server.client() as client:
            # Guessing is limited by address.
            statuses = [client.get("/openapi.json").status_code for _ in range(5)]
            assert statuses == [401, 401, 401, 429, 429]
            spoofed = client.get("/openapi.json", headers={"X-Forwarded-For": "192.0.2.9"})
            assert spoofed.status_code == 429


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        [
            *(OPENSSL, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-keyout", str(key), "-out", str(cert), "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key


@needs_openssl
def test_tls(bundle: Bundle, tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "ours")
    with running(bundle.path, "--tls-cert", cert, "--tls-key", key) as server:
        match = re.search(r"https://127\.0\.0\.1:(\d+)", server.ready_line)
        assert match
        trusting = ssl.create_default_context(cafile=str(cert))
        with httpx.Client(base_url=match[0], verify=trusting, trust_env=False) as client:
            assert client.post("/predict", content=bundles.image(0)).status_code == 200
        with socket.create_connection(("127.0.0.1", int(match[1])), timeout=30) as plain:
            plain.sendall(b"GET /livez HTTP/1.1\r\nHost: here\r\n\r\n")
            assert not plain.recv(100).startswith(b"HTTP")
        assert server.end() == 0
    assert not any("Traceback" in line for line in server.log), server.log


@needs_openssl
def test_what_cannot_be_used_for_tls_is_said_before_anything_is_loaded(
    bundle: Bundle, tmp_path: Path
) -> None:
    cert, key = certificate(tmp_path, "ours")
    _, other = certificate(tmp_path, "other")
    missing = tmp_path / "missing.pem"
    locked = tmp_path / "locked.key"
    subprocess.run(
        [OPENSSL, "pkey", "-in", str(key), "-aes128", "-passout", "pass:x", "-out", str(locked)],
        check=True,
        capture_output=True,
    )
    for options, message in (
        (("--tls-cert", cert, "--tls-key", other), "does not belong to the certificate"),
        (("--tls-cert", missing, "--tls-key", key), f"cannot read {missing}"),
        (("--tls-cert", cert, "--tls-key", locked), "protected by a password"),
        (("--tls-cert", cert), "cannot be used for TLS"),
        (("--tls-key", key), "no tls-cert"),
        (("--api-keys", missing), "Cannot read the API keys"),
        (("--rate", "0"), "rate must be more than 0"),
    ):
        started = time.monotonic()
        failed = failing(bundle.path, "--port", "0", *options)
        assert failed.returncode == 2, failed.stderr
        assert message in " ".join(failed.stderr.split()), failed.stderr
        assert "Traceback" not in failed.stderr
        assert time.monotonic() - started < 20


def test_an_open_service_on_all_addresses_is_warned_of(bundle: Bundle) -> None:
    with running(bundle.path, "--host", "0.0.0.0") as server:
        pass
    assert any("has no API keys" in line for line in server.log)
    environment = {"TLSERVE_API_KEYS": keys.make("a")[1]}
    with running(bundle.path, "--host", "0.0.0.0", environment=environment) as server:
        pass
    assert server.log == []


def test_bentoml_s_own_command_serves_behind_the_same_guard(bundle: Bundle, tmp_path: Path) -> None:
    key, line = keys.make("a")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            *(str(Path(sys.executable).with_name("bentoml")), "serve"),
            *("service.main:TlserveService", "--host", "127.0.0.1", "--port", str(port)),
        ],
        env={
            **os.environ,
            "TLSERVE_BUNDLE": str(bundle.path),
            "TLSERVE_API_KEYS": line,
            "BENTOML_HOME": str(tmp_path),
            "BENTOML_DO_NOT_TRACK": "True",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
            assert serves_within(client, 90)
            for path in ("/openapi.json", "/docs.json", "/schema.json", "/metrics"):
                assert client.get(path).status_code == 401, path
            client.headers["X-API-Key"] = key
            assert client.post("/predict", content=bundles.image(0)).status_code == 200
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def serves_within(client: httpx.Client, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if client.get("/readyz").status_code == 200:
                return True
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    return False
