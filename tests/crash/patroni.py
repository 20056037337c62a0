"""A real cluster of Postgres: three nodes under Patroni, with etcd, in synchronous replication.

Debian has all of it: `apt-get install etcd-server patroni postgresql`. Everything listens on loopback, in a folder of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

import httpx
import psutil

from tests.support.ports import free_port

HOST = "127.0.0.1"
NODES = 3
READY_S = 300.0
REBUILD_S = 45.0
TTL_S = 20
"""The least that Patroni takes: a leader that is gone with its Patroni is missed after so long."""


def missing_programs() -> list[str]:
    """Return what has to be installed."""
    return [name for name in ("etcd", "patroni") if shutil.which(name) is None] + (
        [] if _binaries() else ["postgresql"]
    )


def _binaries() -> str:
    """Return the folder of the newest server."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    return str(found[-1].parent) if found else ""


@dataclass
class Node:
    """One server and its Patroni."""

    name: str
    folder: Path
    port: int
    api_port: int
    log: IO[bytes]
    process: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["patroni", str(self.folder / "patroni.json")],
            stdout=self.log,
            stderr=self.log,
            user=_user(),
            group=_user(),
        )

    def kill(self, *, whole: bool) -> None:
        """Kill the server with all its processes; `whole`: as a machine does, with its Patroni."""
        assert self.process is not None
        victims = psutil.Process(self.process.pid).children(recursive=True)
        try:
            postmaster = int((self.folder / "data" / "postmaster.pid").read_text().splitlines()[0])
            server = psutil.Process(postmaster)
            victims += [server, *server.children(recursive=True)]
        except (OSError, psutil.Error):
            pass
        if whole:
            self.process.kill()
            self.process.wait()
        for victim in set(victims):
            if victim.pid != self.process.pid:
                try:
                    victim.send_signal(signal.SIGKILL)
                except psutil.Error:
                    continue

    def role(self) -> str:
        """Return what it is now, as its Patroni says; empty when that is silent."""
        try:
            answer = httpx.get(f"http://{HOST}:{self.api_port}/patroni", timeout=2)
            return str(answer.json().get("role", ""))
        except (httpx.HTTPError, json.JSONDecodeError):
            return ""


def _user() -> str | None:
    """Return who runs it: Postgres does not run as root."""
    return "postgres" if os.geteuid() == 0 else None


class Cluster:
    """Use it as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._etcd: subprocess.Popen[bytes] | None = None
        self.nodes: list[Node] = []
        self.whole_once = False
        self.rebuilt = 0
        """Nodes that were copied anew, since they did not find back by themselves."""
        self._log = (folder / "cluster.log").open("ab")

    @property
    def url(self) -> str:
        """All nodes: whoever connects finds the one that takes writes."""
        hosts = ",".join(f"{HOST}:{node.port}" for node in self.nodes)
        return f"postgresql://postgres:secret@{hosts}/postgres?target_session_attrs=read-write&sslmode=disable"

    def __enter__(self) -> Self:
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        client, peer = free_port(), free_port()
        self._etcd = subprocess.Popen(
            [
                "etcd", "--name", "one", "--data-dir", str(self.folder / "etcd"),
                "--listen-client-urls", f"http://{HOST}:{client}", "--advertise-client-urls", f"http://{HOST}:{client}",
                "--listen-peer-urls", f"http://{HOST}:{peer}", "--initial-advertise-peer-urls", f"http://{HOST}:{peer}",
                "--initial-cluster", f"one=http://{HOST}:{peer}", "--heartbeat-interval", "500",
                "--election-timeout", "5000",
            ],
            stdout=self._log, stderr=self._log, user=_user(), group=_user(),
        )  # fmt: skip
        for number in range(NODES):
            self.nodes.append(self._node(f"node{number}", client))
        for node in self.nodes:
            node.start()
        self.until_whole()
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            if node.process is not None:
                node.kill(whole=True)
        if self._etcd is not None:
            self._etcd.kill()
            self._etcd.wait()
        self._log.close()

    def _node(self, name: str, etcd_port: int) -> Node:
        folder = self.folder / name
        folder.mkdir()
        node = Node(name, folder, free_port(), free_port(), self._log)
        (folder / "patroni.json").write_text(json.dumps(_settings(node, etcd_port)))
        for path in (folder, folder / "patroni.json"):
            if os.geteuid() == 0:
                shutil.chown(path, "postgres", "postgres")
        return node

    def leader(self) -> Node | None:
        """Return the node that takes writes."""
        return next((node for node in self.nodes if node.role() in ("master", "primary")), None)

    def members(self) -> list[dict[str, object]]:
        """Return what any Patroni knows of the cluster."""
        for node in self.nodes:
            try:
                found = httpx.get(f"http://{HOST}:{node.api_port}/cluster", timeout=2).json()["members"]
            except (httpx.HTTPError, json.JSONDecodeError, KeyError):
                continue
            return list(found)
        return []

    def until_whole(self) -> None:
        """Wait until one node leads, and another is its synchronous standby."""
        end = time.monotonic() + READY_S
        rebuild = time.monotonic() + REBUILD_S
        while time.monotonic() < end:
            members = self.members()
            if self.whole_once and time.monotonic() > rebuild:
                rebuild = time.monotonic() + REBUILD_S
                self._rebuild(members)
            roles = [str(each.get("role")) for each in members if each.get("state") in ("running", "streaming")]
            if len(roles) == NODES and "leader" in roles and "sync_standby" in roles:
                self.whole_once = True
                return
            time.sleep(0.5)
        raise AssertionError(f"the cluster does not get ready: {self.members()}; see {self._log.name}")

    def _rebuild(self, members: list[dict[str, object]]) -> None:
        """Do as an operator does with a node that was killed and does not get over the new timeline: copy it anew."""
        # One that is being copied would begin again.
        states = ("running", "streaming", "creating replica")
        up = {str(each["name"]) for each in members if each.get("state") in states}
        for node in self.nodes:
            if node.name not in up:
                self.rebuilt += 1
                with suppress(httpx.HTTPError):
                    httpx.post(f"http://{HOST}:{node.api_port}/reinitialize", json={"force": True}, timeout=5)


def _settings(node: Node, etcd_port: int) -> dict[str, object]:
    """Patroni's settings: a commit is answered when another node has it, and not at all without one."""
    return {
        "scope": "whistlestop", "name": node.name, "namespace": "/tests/",
        "restapi": {"listen": f"{HOST}:{node.api_port}", "connect_address": f"{HOST}:{node.api_port}"},
        "etcd3": {"host": f"{HOST}:{etcd_port}"},
        "bootstrap": {
            "dcs": {
                "ttl": TTL_S, "loop_wait": 2, "retry_timeout": 5, "maximum_lag_on_failover": 1048576,
                "synchronous_mode": True, "synchronous_mode_strict": True, "primary_start_timeout": 0,
                "master_start_timeout": 0,
                "postgresql": {
                    "use_pg_rewind": True, "use_slots": True,
                    "parameters": {"max_connections": 100, "wal_keep_size": "256MB", "shared_buffers": "32MB"},
                },
            },
            "initdb": [{"encoding": "UTF8"}, {"locale": "C"}, "data-checksums"],
        },
        "postgresql": {
            "listen": f"{HOST}:{node.port}", "connect_address": f"{HOST}:{node.port}", "bin_dir": _binaries(),
            "data_dir": str(node.folder / "data"), "pgpass": str(node.folder / "pgpass"),
            "authentication": {
                "superuser": {"username": "postgres", "password": "secret"},
                "replication": {"username": "replicator", "password": "secret"},
                "rewind": {"username": "postgres", "password": "secret"},
            },
            "parameters": {"unix_socket_directories": str(node.folder)},
            # A copy does not wait for the next checkpoint, which may be minutes away.
            "basebackup": [{"checkpoint": "fast"}],
            # Written at each start: a Patroni that is killed while it writes the file leaves it empty.
            "pg_hba": [f"host all all {HOST}/32 trust", f"host replication all {HOST}/32 trust"],
        },
    }  # fmt: skip
