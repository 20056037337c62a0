"""How callers are known, as an operator says it: in the environment of a server or a function (CallerSettings).

`server start` has flags for the API keys, and for allowing everybody.
"""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

from whistlestop.common import certificates
from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.private_files import warn_if_open

if TYPE_CHECKING:
    from collections.abc import Mapping

    from whistlestop.common.doors.settings import CallerSettings, FrontendSettings

BEHIND_A_SIGNATURE = "x-whistlestop-authorization"
"""Where the credential stands when AWS's signature takes the usual header."""
_CREDENTIALS = frozenset({"authorization", BEHIND_A_SIGNATURE})
_SIGNATURES = ("aws4-hmac-sha256", "aws4-ecdsa-p256-sha256")
"""By which AWS knows callers before a function runs, in the usual header."""
_OF_SIGNATURES = frozenset({"authorization", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"})
_LEAST_SECRET = 32
_SCHEMES = ("https://", "http://", "file://")


class BadAuth(ValueError):
    """Settings that make no sense; the message is one line for a person."""


@dataclass(frozen=True, slots=True)
class JwtConfig:
    """Tokens of one issuer: its keys by `jwks_url`, or the one `key`."""

    jwks_url: str = ""
    key: str = field(default="", repr=False)
    issuer: str = ""
    audience: str = ""
    permissions_claim: str = "permissions"

    def __post_init__(self) -> None:
        if bool(self.jwks_url) == bool(self.key):
            raise BadAuth("JWT: give the issuer's JWKS URL or one key, and not both")
        if self.jwks_url and not self.jwks_url.startswith(_SCHEMES):
            raise BadAuth(f'JWT: the JWKS URL "{self.jwks_url}" must begin with {", ".join(_SCHEMES)}')
        if self.key and not self.key_is_public and len(self.key.encode()) < _LEAST_SECRET:
            raise BadAuth(f"JWT: a shared secret needs {_LEAST_SECRET} bytes or more")

    @property
    def key_is_public(self) -> bool:
        """Whether `key` is a public key in PEM, and no shared secret."""
        return "-----BEGIN" in self.key


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """Callers need a credential of these. With none configured, nobody has one."""

    keys: str = ""
    """`ssm:<parameter>`, `secretsmanager:<ARN>` or a file, which hold the document of `auth.keys`; or that itself."""
    jwt: JwtConfig | None = None
    certificates: bool = False
    """The doors ask for client certificates, and the document may grant something to whom they are of."""

    @property
    def configured(self) -> bool:
        """Whether there is any way to be known."""
        return bool(self.keys or self.jwt)

    def describe(self) -> str:
        """What callers have to bring, in words."""
        place = "" if self.keys.lstrip().startswith("{") else f" of {self.keys}"
        ways = [f"an API key{place}"] if self.keys else []
        if self.jwt is not None:
            ways.append(f"a JWT by {self.jwt.jwks_url or 'the key given'}")
        return " or ".join(ways)


def without_credentials(headers: Mapping[str, str], *, asked: bool) -> dict[str, str]:
    """What others may see of a caller's headers: not what it is known by, here (where it is `asked`) or to AWS."""
    dropped = _CREDENTIALS | {certificates.HEADER} if asked else frozenset({certificates.HEADER})
    if headers.get("authorization", "").lower().startswith(_SIGNATURES):
        dropped |= _OF_SIGNATURES
    return {name: value for name, value in headers.items() if name not in dropped}


def of_settings(settings: CallerSettings) -> AuthConfig:
    """What the environment says. Raises BadAuth."""
    key = settings.jwt_key or _text(settings.jwt_key_file)
    jwt = None
    if settings.jwt_jwks_url or key:
        jwt = JwtConfig(
            settings.jwt_jwks_url, key, settings.jwt_issuer, settings.jwt_audience, settings.jwt_permissions_claim
        )
    return AuthConfig(settings.api_keys, jwt)


def of_function(settings: FrontendSettings) -> AuthConfig | None:
    """For a function, closed unless told otherwise: None where callers are AWS's matter, or may be anybody."""
    config = of_settings(settings)
    if config.configured:
        return config
    return None if settings.auth_mode == "AWS_IAM" or settings.allow_anonymous else config


def _text(path: str) -> str:
    if not path:
        return ""
    try:
        text = Path(path).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadAuth(f"JWT: {path} can't be read: {error}") from error
    if "-----BEGIN" not in text:  # a shared secret, and no public key
        warn_if_open("the secret of JWTs", path)
    return text
