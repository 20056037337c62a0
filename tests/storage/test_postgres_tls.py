"""Whose certificate the store takes for the database's, and what a pretender hears before that is known."""

from __future__ import annotations

import socket
import ssl
import threading
from typing import TYPE_CHECKING

import pytest

from tests.server.test_start import Authority
from whistlestop.functions.database import verified
from whistlestop.storage.errors import CannotOpen
from whistlestop.storage.postgres.store import PostgresStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SSL_REQUEST = bytes.fromhex("0000000804d2162f")


class Pretender:
    """Speaks Postgres up to the first message under TLS, and keeps what it is told."""

    def __init__(self, authority: Authority, *, tls: bool = True) -> None:
        self.heard: list[bytes] = []
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(*authority.issue("db"))
        self.tls = tls
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.socket.accept()
            except OSError:
                return
            with client:
                try:
                    if client.recv(8) == SSL_REQUEST and self.tls:
                        client.sendall(b"S")
                        with self.context.wrap_socket(client, server_side=True) as secure:
                            self.heard.append(secure.recv(1000))
                    else:
                        client.sendall(b"N")
                        self.heard.append(client.recv(1000))
                except OSError:
                    continue

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self.thread.join()


@pytest.fixture
def authorities(tmp_path: Path) -> dict[str, Authority]:
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    return {name: Authority(tmp_path / name) for name in ("ours", "theirs")}


@pytest.fixture
def made() -> Iterator[list[Pretender]]:
    pretenders: list[Pretender] = []
    yield pretenders
    for pretender in pretenders:
        pretender.close()


async def opened(host: str, port: int, root: Path) -> str:
    """Why the store could not be opened, by what a function makes of such a URL."""
    # The address is given, so that no resolver is asked.
    url = verified(f"postgresql://app:secret@{host}:{port}/db?hostaddr=127.0.0.1", "verify-full", lambda: str(root))
    with pytest.raises(CannotOpen) as refused:
        await PostgresStore(url).open()
    return str(refused.value)


async def test_only_the_verified_database_gets_the_user_name(
    authorities: dict[str, Authority], made: list[Pretender]
) -> None:
    made.append(Pretender(authorities["ours"]))
    url = f"postgresql://app:secret@localhost:{made[0].port}/db?hostaddr=127.0.0.1&sslmode=verify-full"
    with pytest.raises(CannotOpen):
        await PostgresStore(f"{url}&sslrootcert={authorities['ours'].path}").open()
    assert b"user\0app\0" in made[0].heard[0]


async def test_a_server_of_another_authority_gets_nothing(
    authorities: dict[str, Authority], made: list[Pretender]
) -> None:
    made.append(Pretender(authorities["theirs"]))
    assert "SSL error: " in await opened("db.example", made[0].port, authorities["ours"].path)
    assert b"app" not in b"".join(made[0].heard)


async def test_a_server_of_another_name_gets_nothing(authorities: dict[str, Authority], made: list[Pretender]) -> None:
    made.append(Pretender(authorities["ours"]))
    said = await opened("db.example", made[0].port, authorities["ours"].path)
    assert 'does not match host name "db.example"' in said
    assert b"app" not in b"".join(made[0].heard)


async def test_a_server_without_tls_gets_nothing(authorities: dict[str, Authority], made: list[Pretender]) -> None:
    made.append(Pretender(authorities["ours"], tls=False))
    said = await opened("db.example", made[0].port, authorities["ours"].path)
    assert "does not support SSL" in said
    assert b"".join(made[0].heard) == b""
