"""Keys that AWS keeps: made and revoked by the command line, read by servers and functions; AWS is moto's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import boto3  # type: ignore[import-untyped]  # carries no types
import pytest
from moto import mock_aws

from whistlestop.common.clock import FakeClock
from whistlestop.frontend.auth.keys import hash_of
from whistlestop.frontend.auth.sources import KEPT_AGE_NS, source_of
from whistlestop.net import aws
from whistlestop.server.cli.app import run

if TYPE_CHECKING:
    from collections.abc import Iterator

REGION = "eu-central-1"


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Our own calls speak boto3's words, so boto3's client stands in for them here."""
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.delenv("WHISTLESTOP_API_KEYS", raising=False)
    with mock_aws():
        monkeypatch.setattr(aws, "client", boto3.client)
        yield


@pytest.mark.parametrize("place", ["ssm:/whistlestop/keys", "secretsmanager:whistlestop-keys"])
async def test_a_key_is_accepted_until_it_is_revoked(
    account: None, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["key", "create", "ci", "--grant", "default:read", "--api-keys", place]) == 0
    secret = capsys.readouterr().out.strip()
    assert run(["key", "create", "other", "--grant", "default:read", "--api-keys", place]) == 0
    clock = FakeClock()
    source = source_of(place, clock)
    assert source.peek() is None
    assert (await source.load()).find(hash_of(secret), 0) is not None
    assert run(["key", "revoke", "ci", "--api-keys", place]) == 0
    assert (await source.load()).find(hash_of(secret), 0) is not None
    clock.pass_to(clock.steady_ns() + KEPT_AGE_NS)
    assert (await source.load()).find(hash_of(secret), 0) is None
    capsys.readouterr()
    assert run(["key", "list", "--api-keys", place]) == 0
    listed = capsys.readouterr().out
    assert "other" in listed
    assert "ci" not in listed


@pytest.mark.parametrize("place", ["ssm:/none", "secretsmanager:none"])
def test_missing_keys_are_reported_in_one_line(account: None, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["key", "list", "--api-keys", place]) == 1
    assert capsys.readouterr().err == f"Error: there is no {place}: `whistlestop key create` makes it\n"
