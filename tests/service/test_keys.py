from __future__ import annotations

import hashlib
import logging
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from service.guard import keys
from service.guard.callers import address_of
from service.guard.keys import KeyRing
from service.guard.rates import Buckets
from tlserve.errors import UsageError


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tlserve", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_made_key_opens_and_no_other_does(tmp_path: Path) -> None:
    key, line = keys.make("phone")
    other, other_line = keys.make("tablet")
    assert key != other
    assert key.startswith("tlserve_")
    assert len(key) > 40
    assert line == f"phone:{hashlib.sha256(key.encode()).hexdigest()}"
    ring = KeyRing(f"{line},{other_line}", None)
    assert ring.name_of(key.encode()) == "phone"
    assert ring.name_of(other.encode()) == "tablet"
    for wrong in (b"", b"\xff", key.encode()[:-1], line.partition(":")[2].encode()):
        assert ring.name_of(wrong) is None


def test_a_file_has_comments_and_joins_the_environment(tmp_path: Path) -> None:
    (one, one_line), (two, two_line) = keys.make("one"), keys.make("two")
    path = tmp_path / "keys"
    path.write_text(f"# ours\n\n  {one_line}  # the first\n")
    ring = KeyRing(two_line, path)
    assert [ring.name_of(k.encode()) for k in (one, two)] == ["one", "two"]


def test_a_changed_file_is_read_again_and_a_broken_one_is_not_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    (old, old_line), (new, new_line) = keys.make("old"), keys.make("new")
    path = tmp_path / "keys"
    path.write_text(old_line)
    ring = KeyRing(None, path, clock)
    path.write_text(f"{new_line}\n")
    assert ring.name_of(old.encode()) == "old"  # not looked at again yet
    clock.now += 2
    assert ring.name_of(old.encode()) is None
    assert ring.name_of(new.encode()) == "new"
    for broken in (f"old:{old}", "# nobody\n", None):
        caplog.clear()
        if broken is None:
            path.unlink()
        else:
            path.write_text(broken)
        for _ in range(3):
            clock.now += 2
            assert ring.name_of(new.encode()) == "new"
        assert len([r for r in caplog.records if r.levelno == logging.ERROR]) == 1
        assert "the earlier ones stay" in caplog.text
        assert old not in caplog.text


@pytest.mark.parametrize("text", ["x:12", "x y:" + 64 * "0", 64 * "0", ":" + 64 * "0", " , "])
def test_what_is_no_key_is_explained_without_showing_it(text: str) -> None:
    with pytest.raises(UsageError, match="TLSERVE_API_KEYS") as caught:
        KeyRing(text, None)
    assert "tlserve key NAME" in str(caught.value)
    assert text not in caught.value.message


def test_the_command_makes_keys(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    made = []
    for name in ("phone", "tablet"):
        done = run("key", name, "--append", path)
        assert done.returncode == 0, done.stderr
        key, line = (text.split()[1] for text in done.stdout.splitlines())
        assert line in path.read_text().splitlines()
        made.append(key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ring = KeyRing(None, path)
    assert [ring.name_of(key.encode()) for key in made] == ["phone", "tablet"]
    failed = run("key", "a b")
    assert failed.returncode == 2
    assert "not 'a b'" in failed.stderr


def test_a_bucket_fills_as_time_goes_by() -> None:
    clock = Clock()
    buckets = Buckets(rate=2, burst=3, clock=clock)
    assert [buckets.take("a").wait for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("b").wait == 0
    clock.now += 0.5
    assert [buckets.take("a").wait for _ in range(2)] == [0, 0.5]
    clock.now += 1000
    taken = buckets.take("a")
    assert (taken.remaining, taken.full) == (2, 0.5)


def test_clients_beyond_number_do_not_fill_the_memory() -> None:
    buckets = Buckets(rate=1, burst=1, most=100)
    for number in range(1000):
        buckets.take("regular")
        buckets.take(f"passer-by {number}")
    assert len(buckets) == 100
    assert buckets.take("regular").wait > 0


def test_an_ipv6_subscriber_is_one_client() -> None:
    assert address_of("2001:db8::1") == address_of("2001:db8::ffff:1") == "2001:db8::/64"
    assert address_of("2001:db8:0:1::1") != address_of("2001:db8::1")
    assert address_of("::ffff:192.0.2.1") == address_of("192.0.2.1") == "192.0.2.1"
