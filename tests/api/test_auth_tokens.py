"""JSON Web Tokens: which hold, and what they allow."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from temporalio.api.workflowservice.v1 import request_response_pb2 as service_pb

from tests.api.fixtures import new_world
from tests.api.test_auth import guarded, refused
from whistlestop.common.clock import SECOND_NS, FakeClock
from whistlestop.common.context import CallContext
from whistlestop.common.errors import Code, ServiceError
from whistlestop.frontend.auth import tokens
from whistlestop.frontend.auth.config import AuthConfig, JwtConfig
from whistlestop.frontend.auth.grants import Role
from whistlestop.frontend.auth.keys import hash_of
from whistlestop.frontend.auth.tokens import JWKS_AGAIN_NS, JWKS_AGE_NS, KEPT_NS, LEEWAY_NS, TokenVerifier
from whistlestop.frontend.registry import WORKFLOW_SERVICE

if TYPE_CHECKING:
    from pathlib import Path

    from whistlestop.frontend.auth.grants import Claims
    from whistlestop.net.outbound import Outbound

SECRET = "a shared secret of more than thirty-two bytes"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())


def pem(key: Any) -> str:
    kind, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    return str(key.public_key().public_bytes(kind, form).decode())


def jwks(**keys: Any) -> str:
    """A JWKS document of RSA and EC keys by their ids."""
    entries = []
    for key_id, key in keys.items():
        algorithm: Any = (
            jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
        )
        entries.append({**json.loads(algorithm.to_jwk(key.public_key())), "kid": key_id, "use": "sig"})
    return json.dumps({"keys": entries})


class Issuer:
    """A JWKS file, a clock, and what verifies."""

    def __init__(self, path: Path, **config: str) -> None:
        self.clock = FakeClock()
        self.path = path
        self.path.write_text(jwks(one=RSA, two=EC))
        self.verifier = TokenVerifier(JwtConfig(path.as_uri(), **config), self.clock)

    def now_s(self, seconds: float = 0) -> float:
        return self.clock.now_ns() / SECOND_NS + seconds

    def later(self, span_ns: int) -> None:
        self.clock.pass_to(self.clock.steady_ns() + span_ns)

    def token(self, key: Any = RSA, algorithm: str = "RS256", kid: str | None = "one", **claims: Any) -> str:
        payload = {"sub": "ann", "permissions": ["default:read"], "exp": self.now_s(600), **claims}
        return jwt.encode(
            {name: value for name, value in payload.items() if value is not None},
            key,
            algorithm,
            headers=None if kid is None else {"kid": kid},
        )

    async def verify(self, token: str) -> Claims | None:
        hashed = hash_of(token)
        return self.verifier.peek(hashed, self.clock.now_ns()) or await self.verifier.verify(token, hashed)


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path / "jwks.json")


async def test_permissions_are_temporals(issuer: Issuer) -> None:
    """`namespace:role`, `temporal-system` for the cluster; roles add up, and what is no grant is passed over."""
    permissions = ["default:read", "default:write", "other:worker", "temporal-system:read", "x", 7, "default:owner"]
    claims = await issuer.verify(issuer.token(permissions=permissions))
    assert claims is not None
    assert claims.subject == "token of ann"
    assert claims.system == Role.READ
    assert claims.namespaces == {"default": Role.READ | Role.WRITE, "other": Role.WORKER}


@pytest.mark.parametrize("permissions", [None, "default:admin", {"default": "admin"}, []])
async def test_without_permissions_a_token_allows_nothing(issuer: Issuer, permissions: Any) -> None:
    claims = await issuer.verify(issuer.token(permissions=permissions))
    assert claims is not None
    assert (claims.system, dict(claims.namespaces)) == (Role.NONE, {})


async def test_keys_of_either_kind(issuer: Issuer) -> None:
    assert await issuer.verify(issuer.token(RSA, "RS256", "one")) is not None
    assert await issuer.verify(issuer.token(EC, "ES256", "two")) is not None


async def test_tokens_that_do_not_hold(issuer: Issuer) -> None:
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    good = issuer.token()
    head, body, signature = good.split(".")
    wrong = {
        "another's signature": issuer.token(stranger),
        "another key's id": issuer.token(RSA, "RS256", "two"),
        "an unknown key": issuer.token(kid="three"),
        "no key id": issuer.token(kid=None),
        "no signature": jwt.encode({"sub": "ann", "exp": issuer.now_s(60)}, "", "none", headers={"kid": "one"}),
        "a secret that is the public key": hmac_with_public_key({"sub": "ann", "permissions": ["default:admin"]}),
        "a changed body": f"{head}.{good.split('.')[1][:-2]}AA.{signature}",
        "a cut token": f"{head}.{body}",
        "no token": "nonsense",
        "nobody": issuer.token(sub=None),
        "a number for a name": issuer.token(sub=7),
        "an instant in words": issuer.token(exp="tomorrow"),
    }
    assert {name for name, token in wrong.items() if await issuer.verify(token) is not None} == set()
    assert await issuer.verify(good) is not None


def hmac_with_public_key(payload: dict[str, Any]) -> str:
    """What the library would not sign: HS256 with the text of a public key, which everybody knows."""
    import base64
    import hashlib
    import hmac

    def part(data: bytes) -> str:
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    signed = f"{part(json.dumps({'alg': 'HS256', 'kid': 'one'}).encode())}.{part(json.dumps(payload).encode())}"
    return f"{signed}.{part(hmac.new(pem(RSA).encode(), signed.encode(), hashlib.sha256).digest())}"


async def test_a_public_key_is_no_secret() -> None:
    """With the key in the configuration as well."""
    verifier = TokenVerifier(JwtConfig(key=pem(RSA)), FakeClock())
    forged = hmac_with_public_key({"sub": "ann", "permissions": ["default:admin"]})
    assert await verifier.verify(forged, hash_of(forged)) is None
    good = jwt.encode({"sub": "ann"}, RSA, "RS256")
    assert await verifier.verify(good, hash_of(good)) is not None


async def test_a_shared_secret() -> None:
    verifier = TokenVerifier(JwtConfig(key=SECRET), FakeClock())
    good, forged = jwt.encode({"sub": "ann"}, SECRET, "HS256"), jwt.encode({"sub": "ann"}, SECRET[::-1], "HS256")
    assert await verifier.verify(good, hash_of(good)) is not None
    assert await verifier.verify(forged, hash_of(forged)) is None
    signed = jwt.encode({"sub": "ann"}, RSA, "RS256")
    assert await verifier.verify(signed, hash_of(signed)) is None


async def test_time_is_the_clocks(issuer: Issuer) -> None:
    """Within the leeway: issuers' clocks differ."""
    edge_s = LEEWAY_NS / SECOND_NS
    assert await issuer.verify(issuer.token(exp=issuer.now_s(1 - edge_s))) is not None
    assert await issuer.verify(issuer.token(exp=issuer.now_s(-edge_s))) is None
    assert await issuer.verify(issuer.token(nbf=issuer.now_s(edge_s - 1))) is not None
    assert await issuer.verify(issuer.token(nbf=issuer.now_s(edge_s + 1))) is None


async def test_verified_tokens_are_cached_until_they_expire(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no longer than five minutes: the issuer may have changed its keys."""
    brief, long = issuer.token(exp=issuer.now_s(10)), issuer.token(exp=issuer.now_s(86_400))
    for token in (brief, long):
        assert await issuer.verify(token) is not None
        assert issuer.verifier.peek(hash_of(token), issuer.clock.now_ns()) is not None
    issuer.later(10 * SECOND_NS + LEEWAY_NS)
    assert await issuer.verify(brief) is None
    issuer.later(KEPT_NS)
    assert issuer.verifier.peek(hash_of(long), issuer.clock.now_ns()) is None
    monkeypatch.setattr(tokens, "MAX_KEPT", 2)
    for number in range(5):
        await issuer.verify(issuer.token(jti=str(number)))
    assert len(issuer.verifier._kept) <= 2


async def test_issuer_and_audience_must_be_those(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path / "jwks.json", issuer="https://id.example", audience="whistlestop")
    assert await issuer.verify(issuer.token(iss="https://id.example", aud=["x", "whistlestop"])) is not None
    for claims in (
        {"iss": "https://id.example"}, {"aud": "whistlestop"}, {"iss": "https://else.example", "aud": "whistlestop"},
        {"iss": "https://id.example", "aud": "x"},
    ):  # fmt: skip
        assert await issuer.verify(issuer.token(**claims)) is None


async def test_another_claim_may_hold_the_permissions(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path / "jwks.json", permissions_claim="roles")
    claims = await issuer.verify(issuer.token(roles=["default:admin"]))
    assert claims is not None
    assert claims.namespaces == {"default": Role.ADMIN}


async def test_the_issuers_keys_are_fetched_rarely(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once in five minutes; for an unknown key id at once, but not again within ten seconds."""
    asked: list[str] = []
    fetch = tokens._fetch

    async def counted(url: str, outbound: Outbound) -> bytes:
        asked.append(url)
        return await fetch(url, outbound)

    monkeypatch.setattr(tokens, "_fetch", counted)
    for number in range(3):
        assert await issuer.verify(issuer.token(jti=str(number))) is not None
    assert len(asked) == 1
    fresh = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    issuer.path.write_text(jwks(one=RSA, three=fresh))
    assert await issuer.verify(issuer.token(fresh, kid="three")) is None
    issuer.later(JWKS_AGAIN_NS)
    assert await issuer.verify(issuer.token(fresh, kid="three")) is not None
    for number in range(5):
        assert await issuer.verify(issuer.token(kid=f"unknown-{number}")) is None
    assert len(asked) == 2
    issuer.later(JWKS_AGE_NS)
    issuer.path.unlink()
    assert await issuer.verify(issuer.token(jti="still")) is not None
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("status", "body", "known"),
    [
        ("200 OK", jwks(one=RSA).encode(), True),
        ("302 Found\r\nlocation: /", jwks(one=RSA).encode(), False),
        ("503 Unavailable", jwks(one=RSA).encode(), False),
        ("200 OK", b"[" * 100_000, False),
        ("200 OK", jwks(one=RSA).encode() + b" " * (1 << 20), False),
    ],
    ids=["good", "redirect", "unavailable", "nested", "large"],
)
async def test_an_issuer_that_answers_over_http(status: str, body: bytes, known: bool) -> None:
    """A configured address may be in the operator's own network. Redirects are not followed, and much is not read."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET /keys?v=1 HTTP/1.1\r\n")
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    keys = tokens.Jwks(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys?v=1", FakeClock())
    if known:
        assert await keys.key("one") is not None
    else:
        with pytest.raises(ServiceError) as refusal:
            await keys.key("one")
        assert refusal.value.code is Code.UNAVAILABLE
    server.close()
    await server.wait_closed()


async def test_calls_are_unavailable_while_the_issuers_keys_cannot_be_fetched(tmp_path: Path) -> None:
    issuer = Issuer(tmp_path / "jwks.json")
    issuer.path.write_text("not JSON")
    with pytest.raises(ServiceError) as unknown:
        await issuer.verify(issuer.token())
    assert unknown.value.code is Code.UNAVAILABLE
    issuer.path.write_text(jwks(one=RSA))
    issuer.later(JWKS_AGAIN_NS)
    assert await issuer.verify(issuer.token()) is not None


async def test_a_token_opens_what_its_permissions_say() -> None:
    """Through the frontend; beside it a key would do as well."""
    plain = await new_world()
    world = guarded(plain, AuthConfig(jwt=JwtConfig(key=SECRET)))
    token = jwt.encode({"sub": "ann", "permissions": ["default:read"]}, SECRET, "HS256")
    context = CallContext(headers={"authorization": f"Bearer {token}"})
    count = service_pb.CountWorkflowExecutionsRequest(namespace="default")
    start = service_pb.StartWorkflowExecutionRequest(namespace="default")
    for _ in range(2):
        assert not await refused(world, f"{WORKFLOW_SERVICE}/CountWorkflowExecutions", count, context)
    assert await refused(world, f"{WORKFLOW_SERVICE}/StartWorkflowExecution", start, context)
    await plain.frontend.ports.store.close()
