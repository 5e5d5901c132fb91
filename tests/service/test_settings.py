from __future__ import annotations

from pathlib import Path

import pytest

from service.settings import Settings
from tlserve.errors import UsageError


def test_the_environment_carries_every_setting() -> None:
    settings = Settings(
        bundle=Path("models/a"),
        backend="eager",
        device="cuda",
        max_batch=3,
        workers=2,
        max_queue=4,
        max_wait=2.5,
        log_format="json",
        access_log=True,
        max_bytes=5,
        max_images=7,
        threads=6,
        api_keys="lab:" + "0" * 64,
        api_keys_file=Path("keys"),
        rate=0.5,
        burst=7,
        cors_origins=("https://a.example", "https://b.example"),
        allowed_hosts=["*.example"],
        trusted_proxies="10.0.0.0/8 192.0.2.1",
        tls_cert=Path("cert.pem"),
        tls_key=Path("key.pem"),
        max_connections=8,
        header_timeout=1.5,
        keep_alive=9,
    )
    assert settings.model_fields_set == set(Settings.model_fields), "each is tried"
    assert Settings.from_environment(settings.to_environment()) == settings
    only_the_bundle = Settings.from_environment({"TLSERVE_BUNDLE": "models/a"})
    assert only_the_bundle == Settings(bundle=Path("models/a"))


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("BUNDLE", "", "TLSERVE_BUNDLE is not set"),
        ("BACKEND", "jax", "Unknown backend 'jax'"),
        ("DEVICE", "tpu", "Unknown device 'tpu'"),
        ("MAX_BATCH", "many", "TLSERVE_MAX_BATCH must be a whole number, not 'many'"),
        ("MAX_QUEUE", "0", "max-queue must be at least 1, not 0"),
        ("RATE", "-1", "rate must be more than 0, not -1"),
        ("RATE", "fast", "TLSERVE_RATE must be a number, not 'fast'"),
        ("BURST", "0", "burst must be at least 1, not 0"),
        ("WORKERS", "0", "workers must be at least 1, not 0"),
        ("CORS_ORIGINS", "https://a.example nonsense", "'nonsense' in cors-origins is no origin"),
        ("CORS_ORIGINS", "https://a.example/", "'https://a.example/' in cors-origins is no origin"),
        ("CORS_ORIGINS", "https://A.example", "'https://A.example' in cors-origins is no origin"),
        ("MAX_WAIT", "0", "max-wait must be more than 0, not 0"),
        ("THREADS", "0", "threads must be at least 1, not 0"),
    ],
)
def test_a_wrong_value_is_explained(variable: str, value: str, message: str) -> None:
    environment = {"TLSERVE_BUNDLE": "models/a", f"TLSERVE_{variable}": value}
    with pytest.raises(UsageError, match=message):
        Settings.from_environment(environment)


def test_a_wrong_number_names_the_default() -> None:
    environment = {"TLSERVE_BUNDLE": "models/a", "TLSERVE_MAX_WAIT": "0"}
    with pytest.raises(UsageError) as caught:
        Settings.from_environment(environment)
    assert caught.value.hint == "Leave it out for the default, 5.0."
