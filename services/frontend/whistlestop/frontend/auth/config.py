"""How callers are authenticated, from the environment of a server or a function (CallerSettings).

`server start` also has flags for API keys, and for allowing every caller.
"""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.common.private_files import warn_if_open
from whistlestop.net import certificates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from whistlestop.functions.settings import CallerSettings, FrontendSettings

BEHIND_A_SIGNATURE = "x-whistlestop-authorization"
"""Carries the credential when an AWS signature occupies the usual header."""
_CREDENTIALS = frozenset({"authorization", BEHIND_A_SIGNATURE})
_SIGNATURES = ("aws4-hmac-sha256", "aws4-ecdsa-p256-sha256")
"""Schemes of AWS signatures in the usual header, which AWS verifies before it invokes a function."""
_OF_SIGNATURES = frozenset({"authorization", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token"})
_MIN_SECRET = 32
_SCHEMES = ("https://", "http://", "file://")


class BadAuth(ValueError):
    """The settings are inconsistent; the message is one line."""


@dataclass(frozen=True, slots=True)
class JwtConfig:
    """Tokens of one issuer, whose keys are at `jwks_url`, or signed with the single `key`."""

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
        if self.key and not self.key_is_public and len(self.key.encode()) < _MIN_SECRET:
            raise BadAuth(f"JWT: a shared secret needs {_MIN_SECRET} bytes or more")

    @property
    def key_is_public(self) -> bool:
        """Whether `key` is a public key in PEM rather than a shared secret."""
        return "-----BEGIN" in self.key


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """The credentials that are accepted. If none is configured, every call is refused."""

    keys: str = ""
    """`ssm:<parameter>`, `secretsmanager:<ARN>` or a file with the document of `auth.keys`; or the document itself."""
    jwt: JwtConfig | None = None
    certificates: bool = False
    """TLS asks for client certificates, to which the document may grant permissions."""

    @property
    def configured(self) -> bool:
        """Whether any kind of credential is configured."""
        return bool(self.keys or self.jwt)

    def describe(self) -> str:
        """Return a description of the accepted credentials."""
        place = "" if self.keys.lstrip().startswith("{") else f" of {self.keys}"
        ways = [f"an API key{place}"] if self.keys else []
        if self.jwt is not None:
            ways.append(f"a JWT by {self.jwt.jwks_url or 'the key given'}")
        return " or ".join(ways)


def without_credentials(headers: Mapping[str, str], *, authenticates: bool) -> dict[str, str]:
    """Return the headers without credentials: ours (if authentication is on, `authenticates`) and AWS's."""
    dropped = _CREDENTIALS | {certificates.HEADER} if authenticates else frozenset({certificates.HEADER})
    if headers.get("authorization", "").lower().startswith(_SIGNATURES):
        dropped |= _OF_SIGNATURES
    return {name: value for name, value in headers.items() if name not in dropped}


def of_settings(settings: CallerSettings) -> AuthConfig:
    """Return the configuration of the environment. Raises BadAuth."""
    key = settings.jwt_key or _text(settings.jwt_key_file)
    jwt = None
    if settings.jwt_jwks_url or key:
        jwt = JwtConfig(
            settings.jwt_jwks_url, key, settings.jwt_issuer, settings.jwt_audience, settings.jwt_permissions_claim
        )
    return AuthConfig(settings.api_keys, jwt)


def of_function(settings: FrontendSettings) -> AuthConfig | None:
    """Return the configuration of a function; None if AWS authenticates callers, or anonymous callers are allowed.

    Without any setting, the configuration accepts no credential, so that every call is refused. Raises BadAuth.
    """
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
    if "-----BEGIN" not in text:  # a shared secret rather than a public key
        warn_if_open("the secret of JWTs", path)
    return text
