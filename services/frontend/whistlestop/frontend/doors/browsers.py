"""What web pages may make a browser send to a server that asks nobody who calls.

A page on the internet can have its visitor's browser send requests to the visitor's own machine or network. Where a
credential has to be shown, the page has none. Where nobody is asked, or the browser itself shows a certificate, these
rules are what keeps the page out:

  - `Host` has to be a name of this machine, if the connection came to a loopback address: a page can have its own name
    resolve to 127.0.0.1 (DNS rebinding), and would then even read the answers;
  - `Origin` and `Sec-Fetch-Site`, which browsers set and pages cannot, have to say that it is of the same origin;
  - a body has to have a content type that a page cannot send without asking first (a CORS preflight). Browsers of
    before 2020 send no `Sec-Fetch-Site`, and some no `Origin` with forms.

Origins that are configured may do what pages of the same origin may: they get CORS headers. No others do.
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
"""Content types that a page may send to any site without asking."""
_TOKENS = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z, -]{0,1000}")
_MAX_AGE_S = 600


LOCAL_NAMES = frozenset({
    "localhost", "host.docker.internal", "gateway.docker.internal", "kubernetes.docker.internal",
    "host.containers.internal",
})  # fmt: skip
"""Containers on a developer's machine reach it by the others."""


class UnsupportedMediaType(ServiceError):
    """A body of a type that any web page may send. HTTP has a status of its own for it."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.INVALID_ARGUMENT, message)


@dataclass(frozen=True, slots=True)
class BrowserRules:
    """The rules of one listener. See the head of this file."""

    open: bool = True
    """Whether requests are served that show no credential, or one that a browser adds by itself."""
    origins: frozenset[str] = frozenset()
    """Origins of other sites whose pages may call, such as `https://ui.example.com`."""
    hosts: re.Pattern[str] | None = None
    """What `Host` has to match, if this is configured."""
    local_names: frozenset[str] = LOCAL_NAMES
    """Names of this machine: no page of another site has one of these."""

    def refusal(
        self, headers: Mapping[str, str], local_ip: str = "", *, any_content: bool = False
    ) -> ServiceError | None:
        """What is wrong with a request, as far as its head tells. `any_content`: its body need not be JSON or protobuf.

        `local_ip` is the address of this side of the connection.
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
        """The headers that let a page of a configured origin read the answer."""
        if not self.origins:
            return {}
        origin = headers.get("origin", "")
        if origin not in self.origins:
            return {"vary": "origin"}
        return {"vary": "origin", "access-control-allow-origin": origin, "access-control-expose-headers": "*"}

    def preflight(self, method: str, headers: Mapping[str, str]) -> dict[str, str] | None:
        """The headers of the answer to a browser that asks whether a page may call; None if it does not ask that."""
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
    """Whether a head announces a body."""
    return headers.get("content-length", "0").lstrip("0") != "" or "transfer-encoding" in headers


def origins_of(texts: Iterable[str]) -> frozenset[str]:
    """Configured origins, as browsers write them. Raises ValueError naming what is none."""
    origins = set()
    for text in texts:
        parts = urlsplit(text.rstrip("/"))
        is_origin = parts.scheme in {"http", "https"} and parts.netloc and "@" not in parts.netloc
        if not is_origin or parts.path or parts.query:
            raise ValueError(f"{text}: expected an origin such as https://ui.example.com")
        origins.add(f"{parts.scheme}://{parts.netloc.lower()}")
    return frozenset(origins)


def hosts_of(patterns: Iterable[str] | None) -> re.Pattern[str] | None:
    """Temporal's `frontend.httpAllowedHosts`: names, with their ports, in which `*` stands for anything."""
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
