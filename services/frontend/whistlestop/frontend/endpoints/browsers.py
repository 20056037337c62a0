"""Protection against requests that web pages make browsers send to a server without authentication.

A page on the internet can make its visitor's browser send requests to the visitor's own machine or network. If a
credential is required, the page has none. If authentication is off, or the browser itself presents a certificate,
these rules keep the page out:

- `Host` must be a name of this machine if the connection came to a loopback address: a page can make its own host
  name
  resolve to 127.0.0.1 (DNS rebinding), and could then even read the answers.
- `Origin` and `Sec-Fetch-Site`, which browsers set and pages cannot, must say that the page has the same origin.
- A body must have a content type that a page cannot send without a CORS preflight. This also covers browsers of
  before
  2020, which send no `Sec-Fetch-Site`, and some of which send no `Origin` with forms.

Pages of configured origins may do what pages of the same origin may, and get CORS headers. No others do.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from whistlestop.common.errors import Code, ServiceError
from whistlestop.common.lazy_dataclasses import dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_HOST = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::\d*)?")
_SIMPLE = frozenset({"", "text/plain", "multipart/form-data", "application/x-www-form-urlencoded"})
"""Content types that a page may send to any site without a preflight."""
_TOKENS = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z, -]{0,1000}")
_MAX_AGE_S = 600


LOCAL_NAMES = frozenset({
    "localhost", "host.docker.internal", "gateway.docker.internal", "kubernetes.docker.internal",
    "host.containers.internal",
})  # fmt: skip
"""Beside localhost, the names by which containers on a developer's machine reach it."""


class UnsupportedMediaType(ServiceError):
    """The body has a content type that any web page may send. HTTP answers with status 415."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.INVALID_ARGUMENT, message)


@dataclass(frozen=True, slots=True)
class BrowserRules:
    """The rules of one listener; see the module's docstring."""

    open: bool = True
    """Whether requests are served without a credential, or with one that a browser adds by itself."""
    origins: frozenset[str] = frozenset()
    """Origins of other sites whose pages may call, such as `https://ui.example.com`."""
    hosts: re.Pattern[str] | None = None
    """What `Host` must match, if configured."""
    local_names: frozenset[str] = LOCAL_NAMES
    """Names of this machine, which no page of another site can have."""

    def refusal(
        self, headers: Mapping[str, str], local_ip: str = "", *, any_content: bool = False
    ) -> ServiceError | None:
        """Return why the request is refused, judging by its headers; None if it is allowed.

        `local_ip` is the server's address of the connection. With `any_content`, the body need not be JSON or
        protobuf.
        """
        host = headers.get("host", "")
        if self.hosts is not None:
            if self.hosts.fullmatch(host) is None:
                return _forbidden("Host not allowed")
        elif self.open and _is_loopback(local_ip) and not self._is_local(host):
            return _forbidden("Host not allowed")
        origin = headers.get("origin")
        if not self.open or (origin is not None and origin in self.origins):
            return None
        if (origin is not None and not _same(origin, host)) or headers.get("sec-fetch-site", "none") not in _OWN_SITE:
            return _forbidden("Cross-site request not allowed")
        if has_body(headers):
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind in _SIMPLE and not (any_content and not kind):
                wanted = "application/json" if not any_content else "one other than that of a form or of plain text"
                return UnsupportedMediaType(f'Content-Type "{kind}" not allowed: expected {wanted}')
        return None

    def cors(self, headers: Mapping[str, str]) -> dict[str, str]:
        """Return the headers that let a page of a configured origin read the answer; empty for any other origin."""
        if not self.origins:
            return {}
        origin = headers.get("origin", "")
        if origin not in self.origins:
            return {"vary": "origin"}
        return {"vary": "origin", "access-control-allow-origin": origin, "access-control-expose-headers": "*"}

    def preflight(self, method: str, headers: Mapping[str, str]) -> dict[str, str] | None:
        """Return the headers of the answer to a CORS preflight; None if the request is not one."""
        wanted = headers.get("access-control-request-method")
        if method != "OPTIONS" or wanted is None or headers.get("origin", "") not in self.origins:
            return None
        answer = self.cors(headers)
        answer["access-control-allow-methods"] = "GET, POST, PUT, PATCH, DELETE"
        answer["access-control-max-age"] = str(_MAX_AGE_S)
        names = headers.get("access-control-request-headers", "")
        if names and _TOKENS.fullmatch(names):
            answer["access-control-allow-headers"] = names
        return answer

    def _is_local(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = found[1].lower().rstrip(".")
        return name in self.local_names or name.endswith(".localhost") or _is_loopback(name.strip("[]"))


_OWN_SITE = frozenset({"none", "same-origin"})


def has_body(headers: Mapping[str, str]) -> bool:
    """Return whether the headers (names in lower case) announce a body that is not empty."""
    return headers.get("content-length", "0").lstrip("0") != "" or "transfer-encoding" in headers


def origins_of(texts: Iterable[str]) -> frozenset[str]:
    """Parse configured origins into the form that browsers send. Raises ValueError for an invalid one."""
    origins = set()
    for text in texts:
        parts = urlsplit(text.rstrip("/"))
        is_origin = parts.scheme in {"http", "https"} and parts.netloc and "@" not in parts.netloc
        if not is_origin or parts.path or parts.query:
            raise ValueError(f"{text}: expected an origin such as https://ui.example.com")
        origins.add(f"{parts.scheme}://{parts.netloc.lower()}")
    return frozenset(origins)


def hosts_of(patterns: Iterable[str] | None) -> re.Pattern[str] | None:
    """Compile Temporal's `frontend.httpAllowedHosts`: host names with ports, in which `*` matches anything.

    Return None for None: any host is allowed.
    """
    if patterns is None:
        return None
    return re.compile("|".join(".*".join(map(re.escape, each.split("*"))) for each in patterns), re.DOTALL)


def _forbidden(message: str) -> ServiceError:
    return ServiceError(Code.PERMISSION_DENIED, message)


def _same(origin: str, host: str) -> bool:
    scheme, _, authority = origin.partition("://")
    default = {"http": ":80", "https": ":443"}.get(scheme)
    return default is not None and authority.lower().removesuffix(default) == host.lower().removesuffix(default)


def _is_loopback(ip: str) -> bool:
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
