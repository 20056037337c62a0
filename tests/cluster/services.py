"""Frontend, history and matching as processes of their own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support.ports import free_port

if TYPE_CHECKING:
    from tests.cluster.conftest import Cluster

SECRET = "of this deployment"


@dataclass
class Deployment:
    """One frontend, and as many history and matching processes as there are ports. Names: `history-0`, …"""

    cluster: Cluster
    histories: list[int]
    matchings: list[int]
    frontend: int = field(default_factory=free_port)
    metrics: int = field(default_factory=free_port)
    """Of the first matching."""
    http: int | None = None
    """The frontend's port for HTTP, which bridges call. None: it has none."""

    @property
    def names(self) -> list[str]:
        histories = [f"history-{n}" for n in range(len(self.histories))]
        return [*histories, *(f"matching-{n}" for n in range(len(self.matchings))), "frontend"]

    def start(self, *names: str) -> None:
        for name in names:
            self.cluster.launch(name, *self._flags(name), "--internal-secret-file", self._secret())
        for name in names:
            self.cluster.servers[name].until_ready()

    def _secret(self) -> str:
        path = self.cluster.folder / "secret"
        path.write_text(f"{SECRET}\n")
        return str(path)

    def _flags(self, name: str) -> list[str]:
        role, _, number = name.partition("-")
        flags = ["--services", role]
        if role != "history":
            flags += [word for port in self.histories for word in ("--history-url", f"http://127.0.0.1:{port}")]
        if role != "matching":
            flags += [word for port in self.matchings for word in ("--matching-url", f"http://127.0.0.1:{port}")]
        if role == "frontend":
            http = ["--http-port", str(self.http)] if self.http is not None else []
            return [*flags, "--port", str(self.frontend), *http]
        ports = self.histories if role == "history" else self.matchings
        if name == "matching-0":
            flags += ["--metrics-port", str(self.metrics)]
        return [*flags, "--internal-port", str(ports[int(number)])]
