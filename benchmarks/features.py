"""Reading one user from the feature store, and bringing a catalogue and its users online.

    python benchmarks/features.py [--quick] [--publication] [--users 100000] [--items 1000000]

Prints one JSON object. `rows`: p50 and p99 of `FeatureReader.read_user` for users with 50, 500 and
2,000 events, codes of nine bytes, beside the raw read of the same bytes, reads of both kinds taking
turns: SQLite's select on Feast's table, Redis's HMGET on Feast's key. `one_by_one` is the design
that the packed history takes the place of, for 2,000 events: an embedding of 2,048 float32 for each
item, read raw in one call, or its code through Feast. Redis is started where redis-server is
installed, else left out; `HYMIREC_ONLINE_STORE` is not looked at.

`--publication` adds rows a second and peak memory of publishing that many users, of 100 events each
and a tenth of them with a click in the event log, and items, on each store.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import redis
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import _mmh3
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

# A script's folder comes first in the search, and there this file would hide the package.
sys.path = [place for place in sys.path if Path(place).resolve() != Path(__file__).parent]

from features import offline, publication
from features.definitions import history_view_name
from features.logs.event_log import Event, EventLog
from features.online import FeatureReader
from features.stores import ENV_ONLINE_STORE
from flows.steps.results import measured
from hymirec.history import History
from hymirec.home import Home

CODEBOOK, CODE_BYTES, DIMENSIONS = "0123456789ab", 9, 2048
EVENTS = (50, 500, 2000)
NUM_ITEMS = 5000
NOW = datetime(2026, 1, 1, tzinfo=UTC)

Read = Callable[[], Any]


def histories(num_users: int, length: int, num_items: int, first: int = 0) -> dict[str, History]:
    """Users of so many random events each."""
    rng = np.random.default_rng(first)
    return {
        f"user {first + user}": History(
            list(map(str, rng.integers(0, num_items, length).tolist())),
            np.sort(rng.integers(1_600_000_000, 1_700_000_000, length)),
            rng.integers(0, 256, (length, CODE_BYTES)).astype(np.uint8),
            CODEBOOK,
        )
        for user in range(num_users)
    }


def item_rows(num_items: int, first: int = 0) -> pd.DataFrame:
    """Items with random codes."""
    codes = np.random.default_rng(first).integers(0, 256, (num_items, CODE_BYTES)).astype(np.uint8)
    ids = [str(first + item) for item in range(num_items)]
    return offline.item_rows(ids, codes, CODEBOOK, NOW)


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[str | None]:
    """Start Redis on a free port and give its address; None where it is not installed."""
    program = shutil.which("redis-server")
    if program is None:
        print("redis-server is not installed: SQLite alone", file=sys.stderr)
        yield None
        return
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    client = redis.Redis(port=port)
    while True:
        with contextlib.suppress(redis.ConnectionError):
            client.ping()
            break
        time.sleep(0.05)
    client.close()
    try:
        yield f"redis://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


def quantiles(repeats: int, *reads: Read) -> list[tuple[float, float]]:
    """p50 and p99 in ms of each of several reads, which take turns."""
    times = np.empty((repeats, len(reads)))
    for row in times:
        for place, read in enumerate(reads):
            started = time.perf_counter()
            read()
            row[place] = time.perf_counter() - started
    return [tuple(np.quantile(column, (0.5, 0.99)) * 1e3) for column in times.T]


def raw_reads(home: Home, address: str | None, user_id: str, items: list[str]) -> tuple[Read, Read]:
    """The store's own read of a user's bytes, and of the embeddings of items."""
    key = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=user_id)])
    stored = serialize_entity_key(key, entity_key_serialization_version=3)
    view = history_view_name(CODEBOOK)
    if address is None:
        connection = sqlite3.connect(home.feast / "online.db")
        query = f'SELECT value FROM "hymirec_{view}" WHERE entity_key = ? AND feature_name = ?'
        many = f"SELECT vector FROM embeddings WHERE item IN ({','.join('?' * len(items))})"
        numbers = list(map(int, items))
        return (
            lambda: connection.execute(query, (stored, "history")).fetchone()[0],
            lambda: connection.execute(many, numbers).fetchall(),
        )
    client = redis.Redis.from_url(address)
    field, stored = _mmh3(f"{view}:history"), stored + b"hymirec"
    return lambda: client.hmget(stored, field)[0], lambda: client.mget(items)


def store_embeddings(home: Home, address: str | None) -> None:
    """Put one embedding an item into the store, past Feast."""
    vector = np.random.default_rng(0).random(DIMENSIONS, dtype=np.float32).tobytes()
    if address is None:
        with contextlib.closing(sqlite3.connect(home.feast / "online.db")) as connection:
            connection.execute("CREATE TABLE embeddings (item INTEGER PRIMARY KEY, vector BLOB)")
            connection.executemany(
                "INSERT INTO embeddings VALUES (?, ?)", [(n, vector) for n in range(NUM_ITEMS)]
            )
            connection.commit()
    else:
        with contextlib.closing(redis.Redis.from_url(address)) as client:
            client.mset({str(number): vector for number in range(NUM_ITEMS)})


def measure_reads(name: str, home: Home, address: str | None, repeats: int) -> dict[str, Any]:
    """Publish a user of every size and read them."""
    users = {n: histories(1, n, NUM_ITEMS, first=n) for n in EVENTS}
    everyone = {user: row for some in users.values() for user, row in some.items()}
    offline.write(home, CODEBOOK, item_rows(NUM_ITEMS), offline.packed_histories(everyone, NOW))
    publication.apply(home, CODEBOOK)
    publication.materialise(home, CODEBOOK)
    store_embeddings(home, address)
    reader, rows = FeatureReader(home, CODEBOOK), []
    for num_events, some in users.items():
        ((user_id, history),) = some.items()
        items = np.random.default_rng(0).permutation(NUM_ITEMS)[: max(EVENTS)].astype(str).tolist()
        raw, embeddings = raw_reads(home, address, user_id, items)
        stored = raw()
        assert reader.read_user(user_id).history.item_ids == history.item_ids
        (p50, p99), (raw_p50, _) = quantiles(repeats, lambda u=user_id: reader.read_user(u), raw)
        rows.append(
            {"store": name, "events": num_events, "p50_ms": p50, "p99_ms": p99,
             "raw_p50_ms": raw_p50, "bytes": len(stored)}
        )  # fmt: skip
    assert len(embeddings()) == len(reader.read_item_codes(items)) == max(EVENTS)
    few = max(5, repeats // 50)
    (vectors, _), (codes, _) = quantiles(few, embeddings, lambda: reader.read_item_codes(items))
    code = offline.pack_codes(np.zeros((1, CODE_BYTES), np.uint8), CODEBOOK)[0]
    one_by_one = [
        {"store": name, "what": "embeddings", "p50_ms": vectors,
         "bytes": 4 * DIMENSIONS * max(EVENTS)},
        {"store": name, "what": "item codes", "p50_ms": codes, "bytes": len(code) * max(EVENTS)},
    ]  # fmt: skip
    return {"rows": rows, "one_by_one": one_by_one}


def write_large(home: Home, num_users: int, num_items: int) -> None:
    """Write offline files and an event log piece by piece."""
    piece = 2000
    for path, schema, count, rows in (
        (offline.item_path(home, CODEBOOK), offline.ITEM_SCHEMA, num_items, item_rows),
        (offline.history_path(home, CODEBOOK), offline.HISTORY_SCHEMA, num_users,
         lambda count, first: offline.packed_histories(
             histories(count, 100, num_items, first), NOW)),
    ):  # fmt: skip
        path.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(path, schema) as writer:
            for first in range(0, count, piece):
                frame = rows(min(piece, count - first), first)
                table = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
                writer.write_table(table)
    log = EventLog(home)
    events = [
        Event(f"e{user}", f"user {user}", str(user % num_items), "click", 1_700_000_000)
        for user in range(0, num_users, 10)
    ]
    for first in range(0, len(events), 5000):
        log.append(events[first : first + 5000])
    log.close()


def measure_publication(name: str, home: Home, num_users: int, num_items: int) -> dict[str, Any]:
    """Publish in a process of its own, whose memory is that of publishing alone."""
    write_large(home, num_users, num_items)
    command = [sys.executable, __file__, "--publish", str(home.root)]
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures = json.loads(ended.stdout)
    rate = (num_users + num_items) / figures["seconds"]
    return {
        "store": name, "users": num_users, "items": num_items,
        "rows_per_second": round(rate), **figures,
    }  # fmt: skip


def publish(home: Home) -> dict[str, float]:
    """Bring what lies in a home online; seconds, and memory before and at its peak."""
    publication.apply(home, CODEBOOK)
    with measured() as before:
        pass
    with measured() as cost:
        publication.materialise(home, CODEBOOK)
    return {
        "seconds": round(cost["seconds"], 1),
        "start_mb": round(before["peak_mb"]),
        "peak_mb": round(cost["peak_mb"]),
    }


def rounded(row: dict[str, Any]) -> dict[str, Any]:
    """Times to the microsecond."""
    return {key: round(v, 3) if key.endswith("_ms") else v for key, v in row.items()}


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer reads")
    parser.add_argument("--publication", action="store_true", help="measure publishing as well")
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--publish", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.publish:
        print(json.dumps(publish(Home.at(arguments.publish))))
        return
    repeats = 400 if arguments.quick else 5000
    found: dict[str, Any] = {"rows": [], "one_by_one": [], "publication": []}
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as address:
        for name, store in (("sqlite", None), ("redis", address)):
            os.environ[ENV_ONLINE_STORE] = store or ""
            if name == "redis" and store is None:
                continue
            home = Home.at(Path(folder) / name).create()
            for key, rows in measure_reads(name, home, store, repeats).items():
                found[key] += map(rounded, rows)
            if arguments.publication:
                home = Home.at(Path(folder) / f"large {name}").create()
                found["publication"].append(
                    measure_publication(name, home, arguments.users, arguments.items)
                )
    longest = max(row["bytes"] for row in found["rows"])
    found["bytes_ratio_vs_embeddings"] = round(4 * DIMENSIONS * max(EVENTS) / longest, 1)
    print(json.dumps(found if arguments.publication else {**found, "publication": None}))


if __name__ == "__main__":
    main()
