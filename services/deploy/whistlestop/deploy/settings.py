"""The options of a deployment, converted to the template's parameters."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.functions.database import BY_PARAMETER, BY_SECRET

if TYPE_CHECKING:
    from collections.abc import Mapping

NAME = "whistlestop"
NEVER = "never"
_MAX_DYNAMIC = 2000
"""Maximum characters of the template's parameter: the whole environment of a function has 4 KB."""
_MAX_CA = 8192
"""Maximum characters of a parameter of Systems Manager (advanced tier)."""


class DeployError(Exception):
    """A deployment cannot proceed; the message is for the user."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Options of a deployment. None and empty strings mean the template's default, or the existing stack's value."""

    stack: str = NAME
    database_url: str = field(default="", repr=False)
    create_database: str = ""
    plain_url: bool = False
    """Leave the URL in the functions' environment instead of storing it in Systems Manager."""
    database_ca: str = ""
    """A file with the CA certificates of the database."""
    database_user: str = ""
    client_cidr: str = ""
    vpc_id: str = ""
    subnet_ids: str = ""
    runtime: str = ""
    architecture: str = ""
    memory_mb: int = 0
    auth: str = ""
    sweep_rate: str = ""
    alarm_topic: str = ""
    log_retention_days: int = 0
    metrics: bool | None = None
    tracing: bool | None = None
    dynamic_config: str = ""
    """Dynamic configuration in JSON."""
    others: Mapping[str, str] = field(default_factory=dict)
    """Further parameters of the template, by name."""

    def url_parameter(self) -> str:
        """Return the name under which Systems Manager stores the URL of this stack; empty if it does not."""
        is_stored_in_aws = self.database_url.startswith((BY_PARAMETER, BY_SECRET))
        return "" if not self.database_url or self.plain_url or is_stored_in_aws else f"/{self.stack}/database-url"

    def ca_parameter(self) -> str:
        """Return the name under which Systems Manager stores the database's CA certificates; empty if it does not."""
        return f"/{self.stack}/database-ca" if self.database_ca else ""

    def authorities(self) -> str:
        """Return the content of the file with CA certificates. Raises DeployError."""
        what = f"--database-ca {self.database_ca}"
        try:
            text = Path(self.database_ca).read_text("ascii")
        except (OSError, UnicodeDecodeError) as error:
            raise DeployError(f"{what}: {getattr(error, 'strerror', None) or error}") from error
        if "-----BEGIN CERTIFICATE-----" not in text:
            raise DeployError(f"{what} has no certificates in PEM")
        if len(text) > _MAX_CA:
            raise DeployError(
                f"{what} has {len(text)} bytes, and a parameter holds {_MAX_CA}: take the bundle of the region alone"
            )
        return text

    def _dynamic_config(self) -> str:
        if len(self.dynamic_config) > _MAX_DYNAMIC:
            raise DeployError(
                f"the dynamic configuration has {len(self.dynamic_config)} characters as JSON, and functions take "
                f"{_MAX_DYNAMIC}: store the JSON in Systems Manager, and name it by --parameter "
                "DynamicConfigParameter=/NAME"
            )
        return self.dynamic_config

    def parameters(self) -> dict[str, str]:
        """Return the parameters that are set. Raises DeployError for contradictions."""
        if self.database_url and self.create_database not in {"", "none"}:
            raise DeployError("--database-url and --create-database exclude each other")
        given = {
            "CreateDatabase": self.create_database, "AuroraVpcId": self.vpc_id, "AuroraSubnetIds": self.subnet_ids,
            "AuroraClientCidr": self.client_cidr, "DatabaseUser": self.database_user,
            "DatabaseCaParameter": self.ca_parameter(),
            "PythonRuntime": self.runtime, "Architecture": self.architecture,
            "MemorySize": str(self.memory_mb or ""), "AuthMode": {"iam": "AWS_IAM", "none": "NONE"}.get(self.auth, ""),
            "SweepRate": self.sweep_rate, "AlarmTopicArn": self.alarm_topic,
            "LogRetentionDays": str(self.log_retention_days or ""),
            "Metrics": {True: "on", False: "off", None: ""}[self.metrics],
            "Tracing": {True: "Active", False: "PassThrough", None: ""}[self.tracing],
            "DynamicConfig": self._dynamic_config(),
        }  # fmt: skip
        chosen = {name: value for name, value in given.items() if value}
        return {**chosen, **self._database(), **self.others}

    def _database(self) -> dict[str, str]:
        """Return values for all parameters that may have the URL, since the stack may have had another one."""
        if not self.database_url and self.create_database in {"", "none"}:
            return {}
        places = {"DatabaseUrl": "", "DatabaseUrlParameter": "", "DatabaseUrlSecretArn": ""}
        if not self.database_url:
            return places
        if self.database_url.startswith(BY_PARAMETER):
            places["DatabaseUrlParameter"] = self.database_url.removeprefix(BY_PARAMETER)
        elif self.database_url.startswith(BY_SECRET):
            places["DatabaseUrlSecretArn"] = self.database_url.removeprefix(BY_SECRET)
        elif not self.database_url.startswith(("postgresql://", "postgres://")):
            raise DeployError("--database-url must begin with postgresql://, ssm: or secretsmanager:")
        elif kept := self.url_parameter():
            places["DatabaseUrlParameter"] = kept
        else:
            places["DatabaseUrl"] = self.database_url
        return {**places, "CreateDatabase": "none"}


def sweep_minutes(rate: str) -> float:
    """Return the minutes of `rate(15 minutes)`; 15, the default, for any other expression."""
    unit_minutes = {"minute": 1, "minutes": 1, "hour": 60, "hours": 60, "day": 1440, "days": 1440}
    words = rate.removeprefix("rate(").removesuffix(")").split()
    if len(words) == 2 and words[0].isdigit() and words[1] in unit_minutes:
        return float(int(words[0]) * unit_minutes[words[1]])
    return 15.0
