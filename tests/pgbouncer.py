"""A real PgBouncer before the Postgres of the tests, in transaction mode: a server connection is anybody's after each.

    async with pooled(url) as address: ...

Debian and Ubuntu have it as the package `pgbouncer`. `make test` installs it where it may; where it may not, these tests
are skipped, but never in CI.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from psycopg.conninfo import conninfo_to_dict

from tests.patience import PATIENCE_S
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SERVER_CONNECTIONS = 3
"""Fewer than a server has clients' connections: statements of all of them mix."""


def program() -> str:
    """Return where it is. Where it is not, the test fails in CI, and is skipped elsewhere."""
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if found is None and not os.environ.get("CI"):
        pytest.skip("pgbouncer is not installed, and only root may install it: apt-get install pgbouncer")
    assert found is not None, "pgbouncer is not installed, although `make test` should have done that"
    return found


@asynccontextmanager
async def pooled(url: str, mode: str = "transaction") -> AsyncIterator[str]:
    """The address of a pooler before the server of that database."""
    given = conninfo_to_dict(url)
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="whistlestop-pgbouncer-") as folder:
        config = Path(folder) / "pgbouncer.ini"
        target = f"host={given['host']} port={given.get('port', 5432)} user={given.get('user', 'postgres')}"
        if given.get("password"):
            target += f" password={given['password']}"
        lines = [
            "[databases]", f"* = {target}", "[pgbouncer]", "listen_addr = 127.0.0.1", f"listen_port = {port}",
            "unix_socket_dir =", "auth_type = any", f"pool_mode = {mode}", f"default_pool_size = {SERVER_CONNECTIONS}",
            "max_client_conn = 200", "server_tls_sslmode = disable", "client_tls_sslmode = disable",
            *([f"user = {_user(given['host'])}"] if os.geteuid() == 0 else []),
        ]  # fmt: skip
        config.write_text("\n".join(lines) + "\n")
        os.chmod(folder, 0o755)  # noqa: PTH101
        config.chmod(0o644)
        process = _started([program(), str(config)])
        try:
            await _until_open(port, process)
            yield f"postgresql://postgres@127.0.0.1:{port}/{given['dbname']}?sslmode=disable"
        finally:
            process.terminate()
            process.communicate()


def _started(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def _user(host: object) -> str:
    """Who may reach the socket of the server: PgBouncer does not run as root."""
    return (
        pwd.getpwuid(Path(host).stat().st_uid).pw_name if isinstance(host, str) and host.startswith("/") else "nobody"
    )


async def _until_open(port: int, process: subprocess.Popen[str]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if process.poll() is not None:
                raise AssertionError(process.communicate()[1])
            with suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)
