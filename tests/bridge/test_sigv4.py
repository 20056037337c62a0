"""Signed calls when clocks or keys are wrong: a refusal by what stands before the target is made sure of once."""

from __future__ import annotations

import datetime as dt
import email.utils
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import CredentialRetrievalError  # type: ignore[import-untyped]  # carries no types

from tests.bridge.test_target import OK, Origin, answer, origin
from whistlestop.bridge import auth as auths
from whistlestop.bridge.auth import SigV4
from whistlestop.bridge.target import ConnectTarget
from whistlestop.common.errors import Code, ServiceError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["origin"]
DENIED = b'{"Message":"Forbidden"}'
EMPTY = OK + b"content-length: 0\r\n\r\n"


class Kept:
    """As botocore's credentials."""

    def __init__(self, name: str = "AKID", *, is_old: bool = False, fault: Exception | None = None) -> None:
        self._keys = SimpleNamespace(access_key=name, secret_key="secret", token=None)
        self._is_old = is_old
        self._fault = fault
        self.threads: list[int] = []

    def refresh_needed(self, refresh_in: int | None = None) -> bool:
        """Botocore renews fifteen minutes ahead when it is not told otherwise."""
        return self._is_old and refresh_in is None

    def get_frozen_credentials(self) -> Any:
        self.threads.append(threading.get_ident())
        if self._fault is not None:
            raise self._fault
        return self._keys


def target(origin: Origin, credentials: Any = None) -> ConnectTarget:
    return ConnectTarget(origin.url, SigV4(origin.url, "eu-central-1", credentials=credentials))


def signed_at(origin: Origin) -> list[dt.datetime]:
    found = [head.decode().partition("x-amz-date: ")[2].partition("\r\n")[0] for head, _ in origin.requests]
    return [dt.datetime.strptime(each, "%Y%m%dT%H%M%SZ").replace(tzinfo=dt.UTC) for each in found]


def keys_of(origin: Origin) -> list[str]:
    return [head.decode().partition("Credential=")[2].partition("/")[0] for head, _ in origin.requests]


async def failure(target: ConnectTarget) -> ServiceError:
    with pytest.raises(ServiceError) as raised:
        await target.call("/a.B/C", b"", {}, 5)
    return raised.value


@pytest.mark.parametrize("hours", [-2, 3])
async def test_a_wrong_clock_is_compensated(origin: Origin, hours: int) -> None:
    """AWS says what time it is, in every answer."""
    there = dt.datetime.now(dt.UTC) + dt.timedelta(hours=hours)
    origin.answers = [answer(403, "application/json", DENIED, f"date: {email.utils.format_datetime(there)}"), EMPTY]
    made = target(origin, Kept())
    assert await made.call("/a.B/C", b"", {"authorization": "Bearer mine"}, 5) == b""
    await made.call("/a.B/C", b"", {}, 5)
    assert len(origin.requests) == 3
    assert all(abs(each - there) < dt.timedelta(seconds=30) for each in signed_at(origin)[1:])
    assert b"x-whistlestop-authorization: Bearer mine\r\n" in origin.requests[1][0]
    made.close()


async def test_expired_credentials_are_loaded_again(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of credentials that somebody wrote anew, say."""
    found = [Kept("OLD"), Kept("NEW")]
    monkeypatch.setattr(auths, "_find_credentials", lambda: found.pop(0))
    origin.answers = [answer(403, "application/json", DENIED), EMPTY]
    made = target(origin)
    assert await made.call("/a.B/C", b"", {}, 5) == b""
    assert keys_of(origin) == ["OLD", "NEW"]
    made.close()


async def test_a_permanent_refusal_is_retried_rarely(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auths, "_find_credentials", Kept)
    origin.answers = [answer(403, "application/json", DENIED) for _ in range(3)]
    made = target(origin)
    assert [(await failure(made)).code for _ in range(2)] == [Code.PERMISSION_DENIED] * 2
    assert len(origin.requests) == 3
    made.close()


async def test_a_refusal_by_the_target_itself_is_not_retried(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auths, "_find_credentials", Kept)
    origin.answers = [answer(403, "application/json", b'{"code": "permission_denied", "message": "no"}')]
    made = target(origin)
    assert (await failure(made)).message == "no"
    assert len(origin.requests) == 1
    made.close()


async def test_keys_are_renewed_beside_the_event_loop(origin: Origin) -> None:
    """It asks the network."""
    kept = Kept(is_old=True)
    made = target(origin, kept)
    await made.call("/a.B/C", b"", {}, 5)
    assert kept.threads
    assert threading.get_ident() not in kept.threads
    made.close()


def _raises(fault: Exception) -> Callable[[], Any]:
    def find() -> Any:
        raise fault

    return find


async def test_keys_that_cant_be_had_just_now_pass(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = CredentialRetrievalError(provider="sso", error_msg="throttled")
    made = target(origin, Kept(fault=fault))
    assert (await failure(made)).code is Code.UNAVAILABLE
    monkeypatch.setattr(auths, "_find_credentials", _raises(fault))
    made = target(origin)
    assert (await failure(made)).code is Code.UNAVAILABLE
    monkeypatch.setattr(auths, "_find_credentials", lambda: None)
    made = target(origin)
    assert (await failure(made)).code is Code.UNAUTHENTICATED
    assert origin.requests == []


async def test_every_failure_of_signing_is_reported(origin: Origin, monkeypatch: pytest.MonkeyPatch) -> None:
    """A poll that never hears of it would wait for ever."""
    made = target(origin, Kept())
    monkeypatch.setattr(made._http, "post", lambda *_: 1 / 0)
    assert (await failure(made)).code is Code.INTERNAL
