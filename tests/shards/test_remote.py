"""Shards from elsewhere: fetched whole, verified, shared, bounded; every fault is named."""

import contextlib
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from imitate.contract import Exit, Folders, ImitateError, InputError, UsageError
from imitate.shards.manifest import ShardSet
from imitate.shards.order import EpochPlan, Window
from imitate.shards.reader import SampleDamaged, ShardReader, iterate
from imitate.shards.reading import transfer
from imitate.shards.reading.remote import RemoteShardSet, open_kept, open_remote
from imitate.shards.reading.shardcache import locked

pytest.importorskip("aiohttp", reason="http:// needs the extra `remote`")

ALL = np.arange(40)
PIECES = 20


class Store(ThreadingHTTPServer):
    """`faults` of a file's name are met one request after the other, the last one for ever."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.faults: dict[str, list[str]] = defaultdict(list)
        self.asked: Counter[str] = Counter()
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def fault_of(self, name: str) -> str:
        with self.lock:
            self.asked[name] += 1
            waiting = self.faults[name]
            return (waiting.pop(0) if len(waiting) > 1 else waiting[0]) if waiting else "none"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    server: Store

    def do_GET(self) -> None:
        path = self.server.folder / self.path.lstrip("/")
        fault = self.server.fault_of(path.name)
        if fault.isdigit() or not path.is_file():
            self.send_error(int(fault) if fault.isdigit() else 404)
            return
        data = bytearray(path.read_bytes())
        if fault == "changed":
            data[len(data) // 2] ^= 1
        if fault == "short":
            data = data[: len(data) // 2]
        if fault == "endless":
            data *= 5
        if fault == "reset":
            self._hang_up(with_reset=True)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self._send(data, fault)

    def _send(self, data: bytearray, fault: str) -> None:
        if fault == "silent":
            time.sleep(1.5)
        if fault in ("truncated", "reset inside"):
            self.wfile.write(data[: len(data) // 2])
            self._hang_up(with_reset=fault == "reset inside")
            return
        step = -(-len(data) // PIECES)
        for start in range(0, len(data), step):
            self.wfile.write(data[start : start + step])
            time.sleep(0.02 if fault == "slow" else 0)

    def _hang_up(self, *, with_reset: bool) -> None:
        if with_reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the tests ask `asked`."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Store]:
    with Store(folder) as store:
        thread = threading.Thread(target=store.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield store
        finally:
            store.shutdown()
            thread.join()


@pytest.fixture
def local(originals: Path, tmp_path: Path) -> ShardSet:
    """A copy of the set, as it lies where it is served from."""
    shutil.copytree(Folders(originals / "short").shards("phantom"), tmp_path / "there")
    return ShardSet.open(tmp_path / "there")


@pytest.fixture
def store(local: ShardSet, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setattr(transfer, "PAUSE_S", 0.001)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with served(local.folder) as there:
        yield there


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "here"


def names_of(shards: ShardSet) -> list[str]:
    return sorted(path.name for path in (shards.folder / "shards").glob("*.tar"))


def last_shard(local: ShardSet) -> tuple[str, np.ndarray]:
    """The shard of the last sample, and the ordinals of its samples."""
    codes, names = local.codes("shard")
    return names[codes[-1]], np.flatnonzero(codes == codes[-1])


def check_all(shards: ShardSet, local: ShardSet) -> None:
    reader, expected = ShardReader(shards), ShardReader(local)
    assert np.array_equal(reader.images(ALL), expected.images(ALL))
    assert reader.texts(ALL) == expected.texts(ALL)


def test_a_set_elsewhere_reads_as_the_local_one(store: Store, local: ShardSet, root: Path) -> None:
    shards = open_remote(root, f"{store.address}/")
    assert (shards.name, shards.digest, shards.n) == (local.name, local.digest, local.n)
    assert set(store.asked) == {"dataset.json", "manifest.parquet", "shards.parquet"}
    order = np.random.default_rng(0).permutation(40)
    batches = np.split(order, 5)
    for batch, mine in zip(iterate(ShardReader(shards), batches, workers=2), batches, strict=True):
        assert np.array_equal(batch.images, ShardReader(local).images(mine))
    check_all(shards, local)
    assert {store.asked[name] for name in names_of(local)} == {1}
    assert names_of(shards) == names_of(local)


def test_a_folder_is_an_address_too(local: ShardSet, root: Path) -> None:
    check_all(open_remote(root, f"file://{local.folder}"), local)
    with pytest.raises(InputError, match="is not there"):
        open_remote(root, f"file://{local.folder}/nothing")


@pytest.mark.parametrize(
    "faults",
    [
        ["slow"],
        ["503", "503", "none"],
        ["429", "none"],
        ["truncated", "none"],
        ["reset", "reset inside", "none"],
        ["changed", "none"],
        ["short", "none"],
        ["silent", "none"],
    ],
)
def test_faults_that_pass_are_tried_again(
    store: Store, local: ShardSet, root: Path, faults: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "SILENCE_S", 0.3)
    name, ordinals = last_shard(local)
    store.faults[name] = list(faults)
    store.faults["manifest.parquet"] = [
        fault for fault in faults if fault not in ("changed", "short")
    ]
    images = ShardReader(open_remote(root, store.address)).images(ordinals)
    assert np.array_equal(images, ShardReader(local).images(ordinals))
    assert store.asked[name] == len(faults)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("404", "is not there"),
        ("403", "is refused (HTTP 403)"),
        ("503", "cannot be fetched in 5 attempts (HTTP 503)"),
        ("truncated", "cannot be fetched in 5 attempts"),
        ("reset", "cannot be fetched in 5 attempts"),
        ("short", "instead of"),
        ("endless", "has more than"),
        ("changed", "no longer has its hash"),
    ],
)
def test_faults_that_stay_name_the_shard_and_its_keys(
    store: Store, local: ShardSet, root: Path, fault: str, said: str
) -> None:
    name, ordinals = last_shard(local)
    store.faults[name] = [fault]
    shards = open_remote(root, store.address)
    reader = ShardReader(shards)
    with pytest.raises(InputError) as found:
        reader.images(ordinals)
    assert said in found.value.what and found.value.code == Exit.INPUT
    keys = [local.column("key")[i] for i in ordinals]
    assert name in found.value.where and ", ".join(keys[:3]) in found.value.where
    assert len(keys) <= 3 or f"and {len(keys) - 3} more" in found.value.where
    assert names_of(shards) == [] and not list(shards.folder.rglob(".partial-*"))
    others = np.setdiff1d(ALL, ordinals)
    assert len(reader.images(others)) == len(others)
    store.faults.clear()  # and when the store is mended, so is the set
    check_all(shards, local)


@pytest.mark.parametrize("name", ["dataset.json", "manifest.parquet", "shards.parquet"])
@pytest.mark.parametrize("fault", ["404", "changed", "truncated", "short"])
def test_damaged_tables_are_refused(store: Store, root: Path, name: str, fault: str) -> None:
    store.faults[name] = [fault]
    try:
        shards = open_remote(root, store.address)
    except ImitateError as error:
        assert error.code == Exit.INPUT and "127.0.0.1" in error.where
    else:  # a bit of the card that decides nothing
        assert (name, fault) == ("dataset.json", "changed") and shards.n == 40


def test_tables_that_lead_elsewhere_are_refused(store: Store, local: ShardSet, root: Path) -> None:
    card = json.loads((local.folder / "dataset.json").read_bytes())
    for digest in ("../../../out", "", "A" * 64):
        (local.folder / "dataset.json").write_text(json.dumps(card | {"digest": digest}))
        with pytest.raises(InputError, match="not the card of a shard set"):
            open_remote(root, store.address)
    assert sorted(path.name for path in root.parent.iterdir()) == ["here", "there"]


@pytest.mark.parametrize(
    "address",
    [
        "pipe://cat",
        "ftp://host/set",
        "simplecache::https://host/set",
        "https://",
        "https://user:word@host/set",
        "https://host/set?signature=1",
        "s3://bucket/set name",
    ],
)
def test_addresses_that_cannot_be(root: Path, address: str) -> None:
    with pytest.raises(UsageError):
        open_remote(root, address)
    assert not root.exists()


def test_a_whole_cache_is_read_without_a_network(
    local: ShardSet, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(transfer, "PAUSE_S", 0.001)
    with served(local.folder) as store:
        address = store.address
        name, ordinals = last_shard(local)
        ShardReader(open_remote(root, address)).images(np.setdiff1d(ALL, ordinals))
    with pytest.raises(InputError, match="cannot be fetched"):
        open_remote(root / "other", address)
    shards = open_remote(root, address)
    assert "going on with what is kept of it" in capsys.readouterr().err
    with pytest.raises(InputError) as found:
        ShardReader(shards).images(ordinals)
    assert name in found.value.where
    shutil.copy(local.folder / "shards" / name, shards.folder / "shards" / name)
    check_all(open_remote(root, address, quiet=True), local)
    assert open_kept(root, local.digest).column("key") == local.column("key")


def test_a_set_written_anew_is_another_one(
    store: Store, local: ShardSet, originals: Path, root: Path
) -> None:
    before = open_remote(root, store.address)
    shutil.rmtree(local.folder)
    shutil.copytree(Folders(originals / "long").shards("phantom"), local.folder)
    after = open_remote(root, store.address)
    assert before.digest != after.digest
    check_all(after, ShardSet.open(local.folder))
    with pytest.raises(InputError, match="is not there") as found:
        ShardReader(before).images(ALL)
    assert "call this again" in found.value.todo


def test_a_shard_damaged_in_the_cache_is_fetched_anew(
    store: Store, local: ShardSet, root: Path
) -> None:
    shards = open_remote(root, store.address)
    name, ordinals = last_shard(local)
    ShardReader(shards).images(ordinals)
    path = shards.folder / "shards" / name
    path.write_bytes(bytes(path.stat().st_size))
    check_all(shards, local)
    assert store.asked[name] == 2
    path.write_bytes(path.read_bytes()[:1000])
    check_all(shards, local)
    assert store.asked[name] == 3


def kept_bytes(shards: RemoteShardSet) -> int:
    """Bytes of the shards in the cache, each counted once while other threads rename it."""
    sizes = {}
    with locked(shards.cache.folder / ".room"):  # nothing is evicted meanwhile
        for path in (shards.folder / "shards").iterdir():
            with contextlib.suppress(FileNotFoundError):
                facts = path.stat()
                sizes[facts.st_ino] = facts.st_size
    return sum(sizes.values())


def test_the_cache_stays_within_its_limit(store: Store, local: ShardSet, root: Path) -> None:
    sizes = [path.stat().st_size for path in (local.folder / "shards").iterdir()]
    limit = 3 * max(sizes)
    assert sum(sizes) > limit
    shards = open_remote(root, store.address, cache_bytes=limit)
    most = 0
    for batch in iterate(ShardReader(shards), np.split(np.tile(ALL, 3), 12), workers=3):
        assert np.array_equal(batch.images, ShardReader(local).images(batch.ordinals))
        most = max(most, kept_bytes(shards))
    assert 0 < most <= limit
    assert max(store.asked[name] for name in names_of(local)) > 1


def test_the_shard_read_longest_ago_goes_and_one_in_use_stays(
    store: Store, local: ShardSet, root: Path
) -> None:
    limit = sum(path.stat().st_size for path in (local.folder / "shards").iterdir())
    names = names_of(local)
    shards = open_remote(root, store.address, cache_bytes=limit)
    using = shards.open_shard(names[0])
    for name in names[1:]:
        os.close(shards.open_shard(name))
    folder = shards.folder / "shards"
    for age, name in enumerate(names):
        os.utime(folder / name, (age, age))
    stranger = shards.cache.folder / "another" / "shards" / "train-000000-0.tar"
    os.close(shards.cache.open(stranger, 1000, lambda path: path.write_bytes(bytes(1000))))
    assert names_of(shards) == [names[0], *names[2:]]
    os.close(using)
    os.close(shards.cache.open(stranger, 1000, lambda path: None))
    stranger.unlink()
    os.close(shards.open_shard(names[1]))
    assert len(names_of(shards)) == len(names)


def test_a_limit_below_a_shard_is_refused(store: Store, root: Path) -> None:
    shards = open_remote(root, store.address, cache_bytes=1000)
    with pytest.raises(UsageError, match="--cache-bytes 1000 does not hold"):
        ShardReader(shards).images(ALL)


def test_what_a_killed_process_left_is_swept(store: Store, local: ShardSet, root: Path) -> None:
    name, ordinals = last_shard(local)
    size = (local.folder / "shards" / name).stat().st_size
    total = sum(path.stat().st_size for path in (local.folder / "shards").iterdir())
    shards = open_remote(root, store.address, cache_bytes=total)
    for left in (name, names_of(local)[0]):
        partial = shards.folder / "shards" / f".partial-{size}-{left}"
        partial.parent.mkdir(exist_ok=True)
        partial.write_bytes(b"half")
        (shards.folder / "locks").mkdir(exist_ok=True)
        (shards.folder / "locks" / left).touch()
    ShardReader(shards).images(ordinals)
    check_all(shards, local)
    assert not list(root.rglob(".partial-*"))


READ_ALL = """
import sys
from pathlib import Path
import numpy as np
from imitate.files import blake3_hex
from imitate.shards.reader import ShardReader
from imitate.shards.reading.remote import open_remote

reader = ShardReader(open_remote(Path(sys.argv[1]), sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
print(blake3_hex(reader.images(np.arange(40)).tobytes()))
"""


def test_processes_share_one_download(store: Store, local: ShardSet, root: Path) -> None:
    for name in names_of(local):
        store.faults[name] = ["slow"]
    command = [sys.executable, "-c", READ_ALL, str(root), store.address]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert said[0] == said[1] != "" and all(process.returncode == 0 for process in processes)
    assert {store.asked[name] for name in names_of(local)} == {1}


def test_shards_are_fetched_in_the_order_they_are_read(
    store: Store, local: ShardSet, root: Path
) -> None:
    shards = open_remote(root, store.address)
    codes, names = local.codes("shard")
    order = np.argsort(-codes, kind="stable")
    reader = ShardReader(shards)
    reader.advise(order)
    images = reader.images(order)
    assert np.array_equal(images, ShardReader(local).images(order))
    fetched = [name for name in store.asked if name in names]
    wanted = [names[code] for code in dict.fromkeys(codes[order].tolist())]
    # two threads fetch at a time, so neighbours may change places
    assert all(abs(fetched.index(name) - wanted.index(name)) <= 2 for name in wanted)


def test_credentialed_sets_are_kept_private(make_set: object, tmp_path: Path, root: Path) -> None:
    from imitate.shards.plan import ShardOptions
    from imitate.shards.write import write_shards

    make_set("secret", n=6, access="credentialed")  # type: ignore[operator]
    local = write_shards(tmp_path, "secret", ShardOptions()).path
    os.umask(0o022)
    shards: RemoteShardSet = open_remote(root, f"file://{local}")
    ShardReader(shards).images(np.arange(6))
    kept = [shards.folder, *shards.folder.rglob("*")]
    assert len(kept) > 6 and not any(path.stat().st_mode & 0o077 for path in kept)


def test_a_cache_that_cannot_be_written_is_no_damaged_sample(local: ShardSet, root: Path) -> None:
    shards = open_remote(root, f"file://{local.folder}")
    (shards.folder / "locks").write_text("a file where a folder should be")
    with pytest.raises(InputError, match="the shard cache cannot be used") as found:
        ShardReader(shards).images(ALL)
    assert not isinstance(found.value, SampleDamaged)


def test_a_package_that_is_missing_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(InputError, match="http:// needs is missing: aiohttp") as found:
        open_remote(root, "http://127.0.0.1:9/set")
    assert "imitate-cxr[remote]" in found.value.todo


def test_an_order_by_windows_fetches_each_shard_once_into_a_small_cache(
    store: Store, local: ShardSet, root: Path
) -> None:
    largest = max(path.stat().st_size for path in (local.folder / "shards").iterdir())
    shards = open_remote(root, store.address, cache_bytes=4 * largest)
    codes, names = shards.codes("shard")
    plan = EpochPlan(ALL, seed=0, global_batch=4, window=Window(size=2, blocks=codes))
    batches = [plan.batch(step) for step in range(plan.steps_per_epoch)]
    for batch in iterate(ShardReader(shards), batches, workers=0):
        assert np.array_equal(batch.images, ShardReader(local).images(batch.ordinals))
    assert {store.asked[name] for name in names} == {1}
