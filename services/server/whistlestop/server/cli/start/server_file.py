"""The schema of the file of `server start --config`.

It is imported only if there is such a file, because pydantic is slow to import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from whistlestop.server import logs

if TYPE_CHECKING:
    from collections.abc import Iterable

Port = Annotated[int, Field(ge=0, le=65535)]


def _one_of(known: Iterable[str]) -> AfterValidator:
    names = tuple(known)

    def check(value: str) -> str:
        if value and value.lower() not in names:
            raise ValueError(f'"{value}" is not one of {", ".join(names)}')
        return value

    return AfterValidator(check)


LogLevel = Annotated[str, _one_of(logs.LEVELS)]
LogFormat = Annotated[str, _one_of(each.value for each in logs.LogFormat)]


class ServerFile(BaseModel):
    """The flags of `server start`, by their names with underscores; omitted ones have their usual defaults."""

    model_config = ConfigDict(extra="forbid", strict=True)

    ip: str = ""
    port: Port = 0
    http_port: Port = 0
    metrics_port: Port = 0
    metrics_ip: str = ""
    http_cors_origin: list[str] = []
    db_filename: str = ""
    database_url: Annotated[str, Field(pattern="^postgres(ql)?://")] = ""
    database_listen_url: Annotated[str, Field(pattern="^postgres(ql)?://")] = ""
    services: list[Literal["frontend", "history", "matching"]] = []
    allow_outbound: list[str] = []
    history_url: list[str] = []
    matching_url: list[str] = []
    internal_port: Port = 0
    internal_ip: str = ""
    internal_secret_file: str = ""
    namespace: list[str] = []
    search_attribute: dict[str, str] = {}
    dynamic_config_value: dict[str, Any] = {}
    dynamic_config_file: str = ""
    sqlite_pragma: dict[str, str] = {}
    log_level: LogLevel = ""
    log_format: LogFormat = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    broadcast_address: str = ""
    drain: Annotated[float, Field(ge=0, strict=False)] = 0.0
    api_keys: str = ""
    allow_anonymous: bool = False
