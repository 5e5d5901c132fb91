"""A bundle appears whole or not at all."""

# ruff: noqa: PT012 - what fails is the leaving of a `with stage(...)` block, which has statements

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bundles import description, write_plain
from tlserve.bundle import Bundle, stage
from tlserve.bundle.files import exchange, replacing
from tlserve.bundle.manifest import Calibration
from tlserve.errors import BundleError, StorageError


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_no_trace(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), stage(tmp_path / "b") as staged:
        staged.fresh("golden/x").write_bytes(b"x")
        raise error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("derived", [False, True])
def test_a_failure_leaves_the_old_bundle(
    tmp_path: Path, error: type[BaseException], derived: bool
) -> None:
    old = write_plain(tmp_path / "b")
    before = content(tmp_path)
    with (
        pytest.raises(error),
        stage(tmp_path / "b", base=old if derived else None, overwrite=True) as staged,
    ):
        staged.fresh("weights.safetensors").write_bytes(b"other")
        staged.add("weights.safetensors", "weights")
        raise error
    assert content(tmp_path) == before
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]
    Bundle.read(tmp_path / "b").verify()


def test_leaving_without_a_commit_writes_nothing(tmp_path: Path) -> None:
    with stage(tmp_path / "b") as staged:
        staged.fresh("x").touch()
    assert list(tmp_path.iterdir()) == []
    assert not staged.committed


def test_ctrl_c_of_a_whole_process(tmp_path: Path) -> None:
    old = write_plain(tmp_path / "b")
    program = """
import sys, time
from pathlib import Path
from tlserve.bundle import Bundle, stage
target = Path(sys.argv[1])
with stage(target, base=Bundle.read(target)) as staged:
    staged.fresh("model.onnx").write_bytes(b"half of it")
    print("ready", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(old.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert len(list(tmp_path.iterdir())) == 2
        process.send_signal(signal.SIGINT)
        assert process.wait(20) != 0
    assert list(tmp_path.iterdir()) == [old.path]
    Bundle.read(old.path).verify()


def test_an_invalid_manifest_is_not_committed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="same name"), stage(tmp_path / "b") as staged:
        staged.fresh("w").touch()
        staged.add("w", "weights")
        staged.manifest(**description(("ant", "ant")))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    path = tmp_path / "disk"
    path.mkdir()
    program, undo = shutil.which("mount"), shutil.which("umount")
    if program is None or undo is None:
        pytest.skip("needs the programs mount and umount")
    mount = subprocess.run(
        [program, "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mount.returncode:
        pytest.skip(f"cannot mount a small file system: {mount.stderr.strip()}")
    yield path
    subprocess.run([undo, str(path)], check=True)


def test_a_full_disk(tiny_disk: Path) -> None:
    old = write_plain(tiny_disk / "b")
    before = content(tiny_disk)
    with (
        pytest.raises(StorageError, match=r"/b: No space left on device.*\nFree some space"),
        stage(tiny_disk / "b", base=old) as staged,
    ):
        staged.fresh("model.onnx").write_bytes(bytes(2**19))
    assert content(tiny_disk) == before
    assert [path.name for path in tiny_disk.iterdir()] == ["b"]
    with pytest.raises(StorageError, match="No space left"), replacing(tiny_disk / "note") as path:
        path.write_bytes(bytes(2**19))
    assert [path.name for path in tiny_disk.iterdir()] == ["b"]


def test_a_disk_that_fills_at_the_commit(tiny_disk: Path) -> None:
    with pytest.raises(StorageError, match="No space left"), stage(tiny_disk / "b") as staged:
        staged.fresh("w").write_bytes(b"w")
        staged.add("w", "weights")
        # Longer than the rest of the disk in bundle.json itself.
        manifest = staged.manifest(**description(architecture="x" * 2**18))
        staged.commit(manifest)
    assert list(tiny_disk.iterdir()) == []


def test_a_file_size_limit(tmp_path: Path) -> None:
    program = """
import resource, signal, sys
from pathlib import Path
from tlserve.bundle import stage
from tlserve.errors import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with stage(Path(sys.argv[1]) / "b") as staged:
        staged.fresh("w").write_bytes(bytes(5000))
except StorageError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith(f"Cannot write to {tmp_path / 'b'}: File too large.")
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_block_keep_their_own_words(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), stage(tmp_path / "b"):
        (tmp_path / "no such data").read_bytes()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="Cannot write to"), stage(tmp_path / "file" / "b"):
        pytest.fail("the block must not run")


def test_overwriting_is_refused_unless_asked_for(tmp_path: Path) -> None:
    write_plain(tmp_path / "b", b"old")
    with pytest.raises(StorageError, match=r"exists already.*\nPass --overwrite"):
        write_plain(tmp_path / "b", b"new")
    assert (tmp_path / "b" / "weights.safetensors").read_bytes() == b"old"
    write_plain(tmp_path / "b", b"new", overwrite=True)
    assert (tmp_path / "b" / "weights.safetensors").read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]


def test_what_is_no_bundle_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("more")
    before = content(tmp_path)
    for name in "folder", "file":
        with pytest.raises(StorageError, match="is not a model bundle"):
            write_plain(tmp_path / name, overwrite=True)
    assert content(tmp_path) == before


def test_an_empty_folder_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    write_plain(tmp_path / "b", overwrite=True).verify()


def test_a_file_that_was_taken_along_can_be_left_out(tmp_path: Path) -> None:
    old = write_plain(tmp_path / "b", b"old")
    with stage(old.path, base=old) as staged:
        staged.drop("golden/a.png")
        staged.drop("never-there")
        assert (old.path / "golden" / "a.png").read_bytes() == b"old"
        new = staged.commit(staged.manifest())
    new.verify()
    assert list(new.manifest.files) == ["weights.safetensors"]
    assert not (new.path / "golden" / "a.png").exists()


def test_adding_to_a_bundle_shares_its_files_and_cannot_alter_them(tmp_path: Path) -> None:
    old = write_plain(tmp_path / "b", b"old")
    held = tmp_path / "held"
    held.hardlink_to(old.path / "weights.safetensors")
    with stage(old.path, base=old) as staged:
        taken = staged.path / "weights.safetensors"
        assert taken.samefile(old.path / "weights.safetensors")
        staged.fresh("golden/a.png").write_bytes(b"new golden")
        staged.add("golden/a.png", "golden-image")
        staged.fresh("model.onnx").write_bytes(b"onnx")
        staged.add("model.onnx", "onnx", precision="float32", details={"opset": 20})
        assert (old.path / "golden" / "a.png").read_bytes() == b"old"
        new = staged.commit(staged.manifest())
    assert staged.committed
    new.verify()
    assert new.manifest.version == old.manifest.version
    assert new.manifest.files["model.onnx"].details == {"opset": 20}
    assert (new.path / "golden" / "a.png").read_bytes() == b"new golden"
    assert (new.path / "weights.safetensors").samefile(held)
    assert held.read_bytes() == b"old"
    assert new.manifest.model_copy(update={"files": old.manifest.files}) == old.manifest


def test_other_fields_can_change_and_the_version_follows(tmp_path: Path) -> None:
    old = write_plain(tmp_path / "b")
    with stage(old.path, base=old) as staged:
        new = staged.commit(staged.manifest(calibration=Calibration(temperature=2.0)))
    assert new.manifest.version != old.manifest.version
    assert Bundle.read(old.path) == new


def test_a_change_meanwhile_is_found(tmp_path: Path) -> None:
    old = write_plain(tmp_path / "b", b"old")
    with (
        pytest.raises(BundleError, match="changed by another process meanwhile"),
        stage(old.path, base=old) as staged,
    ):
        theirs = write_plain(tmp_path / "b", b"theirs", overwrite=True)
        staged.commit(staged.manifest())
    assert Bundle.read(old.path) == theirs
    assert list(tmp_path.iterdir()) == [old.path]


def test_a_bundle_that_appeared_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match="exists already"),
        stage(tmp_path / "b") as staged,
    ):
        staged.fresh("w").touch()
        staged.add("w", "weights")
        theirs = write_plain(tmp_path / "b", b"theirs")
        staged.commit(staged.manifest(**description()))
    assert Bundle.read(tmp_path / "b") == theirs


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "disk2").mkdir()
    write_plain(tmp_path / "disk2" / "b", b"old")
    link = tmp_path / "b"
    link.symlink_to("disk2/b")
    write_plain(link, b"new", overwrite=True)
    assert link.is_symlink()
    assert (tmp_path / "disk2" / "b" / "weights.safetensors").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.rglob("*") if ".tmp" in path.name) == []


def test_the_current_folder_can_be_the_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_plain(tmp_path / "b")
    monkeypatch.chdir(tmp_path / "b")
    old = Bundle.read(Path())
    with stage(Path(), base=old) as staged:
        staged.fresh("model.onnx").write_bytes(b"onnx")
        staged.add("model.onnx", "onnx")
        staged.commit(staged.manifest())
    assert (tmp_path / "b" / "model.onnx").is_file()
    assert list(tmp_path.iterdir()) == [tmp_path / "b"]


@pytest.mark.parametrize("way", ["one step", "three renames"])
def test_exchange(tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "three renames":
        monkeypatch.setattr(sys, "platform", "other")
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "is").write_text(name)
    exchange(tmp_path / "a", tmp_path / "b")
    assert content(tmp_path) == {"a/is": b"b", "b/is": b"a"}
    with pytest.raises(OSError, match="No such file"):
        exchange(tmp_path / "absent", tmp_path / "b")
    assert content(tmp_path) == {"a/is": b"b", "b/is": b"a"}


def test_replacing_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert content(tmp_path) == {"file": b"old"}
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert content(tmp_path) == {"file": b"new"}


READER = """
import sys
from pathlib import Path
from tlserve.bundle import Bundle
from tlserve.errors import BundleError
target, stop = Path(sys.argv[1]), Path(sys.argv[2])
versions, reads, overtaken = set(), 0, 0
print("ready", flush=True)
while not stop.exists():
    bundle = Bundle.read(target)
    reads += 1
    try:
        bundle.verify()
    except BundleError as error:
        # Told from a bundle that is wrong: those are errors of a narrower kind.
        assert type(error) is BundleError, error
        overtaken += 1
    else:
        versions.add(bundle.manifest.version)
print(reads, overtaken, len(versions))
"""


def test_a_reader_never_sees_the_bundle_absent_or_mixed(tmp_path: Path) -> None:
    target, stop = tmp_path / "models" / "b", tmp_path / "stop"
    write_plain(target)
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(target), str(stop)], stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "ready\n"
        try:
            for number in range(50):
                write_plain(target, b"weights %d " % number * 1000, overwrite=True)
                time.sleep(0.005)
        finally:
            stop.touch()
        reads, _, versions = map(int, reader.stdout.read().split())
        assert reader.wait(20) == 0
    assert reads >= 20
    assert versions >= 5
    assert [path.name for path in target.parent.iterdir()] == ["b"]


def test_of_writers_at_the_same_time_one_succeeds(tmp_path: Path) -> None:
    target = tmp_path / "b"
    base = write_plain(target)
    outcomes: list[str] = []

    def export(number: int) -> None:
        try:
            with stage(target, base=base) as staged:
                staged.fresh("model.onnx").write_bytes(b"%d" % number)
                staged.add("model.onnx", "onnx")
                barrier.wait()
                staged.commit(staged.manifest())
            outcomes.append("committed")
        except BundleError:
            outcomes.append("refused")

    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=export, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["committed", "refused", "refused", "refused"]
    Bundle.read(target).verify()
    assert list(tmp_path.iterdir()) == [target]
