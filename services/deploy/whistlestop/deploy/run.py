"""`deploy` and `destroy`: their steps, in an order in which each may fail without harm.

    account, stack, plan, confirmation                nothing is changed yet
    bundles                                           built here, named by content
    schema                                            before the code: release N runs on schemas N and N + 1
    stack                                             CloudFormation completes it or rolls it back
    namespace

Every step can be repeated: what exists already is left as it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whistlestop.common.lazy_dataclasses import dataclass
from whistlestop.deploy import checks, guide, template
from whistlestop.deploy.bundle import BundleError, bundle, pack, size
from whistlestop.deploy.settings import DeployError, Settings
from whistlestop.deploy.target import FUNCTIONS, Target, here
from whistlestop.functions.database import signed_in
from whistlestop.functions.settings import FunctionSettings, read
from whistlestop.net.aws import AwsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from whistlestop.deploy.cloud import Cloud, Stack

    Prepare = Callable[[str, str], tuple[int, bool]]
    """Migrate the schema of the database with this URL, and register a namespace unless its name is empty or it exists.

    Returns the number of applied migrations, and whether the namespace was registered. Raises DeployError.
    """

_MIN_SUBNETS = 2
_NONE = "none"
"""Value of an output of the stack for nothing."""


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a deployment beside the stack's settings."""

    report: Callable[[str], None]
    confirm: Callable[[str], bool]
    dry_run: bool = False
    bundles: Path | None = None
    """A folder with `<function>.zip`; None: build them."""
    prepare: Prepare | None = None
    """None: the schema is left as it is."""
    namespace: str = "default"
    """Registered if it does not exist; empty: none."""


@dataclass(slots=True)
class Plan:
    """What will be done, with all resulting parameters."""

    settings: Settings
    found: Stack | None
    template: dict[str, Any]
    parameters: dict[str, str] = field(default_factory=dict)
    """Parameters that are set; the others keep their values."""
    complete: dict[str, str] = field(default_factory=dict)

    @property
    def target(self) -> Target:
        return Target(self.complete["PythonRuntime"], self.complete["Architecture"])


def plan(settings: Settings, found: Stack | None) -> Plan:
    """Return the plan; `found` is None for a new stack.

    Raises DeployError for what CloudFormation would refuse, or accept although it is a mistake.
    """
    made = Plan(settings, found, template.load())
    known: Mapping[str, Mapping[str, Any]] = made.template["Parameters"]
    made.parameters = settings.parameters()
    checks.check_parameters(made.parameters, known)
    if found is None:
        # A bundle for this interpreter's version can contain bytecode, which makes cold starts shorter.
        if "PythonRuntime" not in made.parameters and here().runtime in known["PythonRuntime"]["AllowedValues"]:
            made.parameters["PythonRuntime"] = here().runtime
        if not settings.database_url and settings.create_database in {"", "none"}:
            raise DeployError("a new stack needs a database: --database-url, or --create-database dsql")
    defaults = {name: str(each.get("Default", "")) for name, each in known.items()}
    made.complete = {**defaults, **({} if found is None else found.parameters), **made.parameters}
    if made.complete["CreateDatabase"] == "aurora-serverless":
        subnets = [each for each in made.complete["AuroraSubnetIds"].split(",") if each.strip()]
        if not made.complete["AuroraVpcId"] or len(subnets) < _MIN_SUBNETS:
            raise DeployError("--create-database aurora-serverless takes --vpc-id and two --subnet-ids or more")
        _check_aurora(made.complete)
    return made


def _check_aurora(complete: Mapping[str, str]) -> None:
    """Raise DeployError for a cluster that nobody could reach, or whose certificate could not be verified."""
    if not complete["AuroraClientCidr"]:
        raise DeployError(
            "--create-database aurora-serverless takes --client-cidr: who may connect. Functions have no fixed "
            "addresses, so they need 0.0.0.0/0, which is everybody"
        )
    has_authorities = complete["DatabaseCaParameter"] or complete["DatabaseCaSecretArn"]
    if not has_authorities and complete["DatabaseTls"] != "require":
        raise DeployError(
            "Aurora's certificates are signed by Amazon's own authorities: give --database-ca with the bundle of the "
            "region (AWS's documentation of RDS has its address), or --parameter DatabaseTls=require to verify nothing"
        )


def deploy(cloud: Cloud, settings: Settings, options: Options) -> None:
    """Create or update the stack. Raises DeployError."""
    checks.check_stack_name(settings.stack)
    checks.check_bundles(options.bundles, FUNCTIONS)
    account = cloud.account
    found = cloud.stack(settings.stack)
    made = plan(settings, None if found is not None and not found.outputs else found)
    url = _url(cloud, made)
    if url and settings.database_url:
        checks.check_database(url, on_this_machine=cloud.is_local)
    options.report(_outline(made, account, cloud.region, found))
    if options.dry_run:
        options.report(guide.costs(made.complete, guide.alarms_of(made.template), cloud.region))
        options.report("Nothing was changed (--dry-run).")
        return
    if not options.confirm("Go on?"):
        raise DeployError("nothing was changed")
    made.found = cloud.clear_leftover(settings.stack, found, options.report)
    code = _upload(cloud, made, options)
    if kept := settings.ca_parameter():
        cloud.keep_secret(kept, settings.authorities())
        options.report(f"The authorities of the database's certificate are kept in Systems Manager as {kept}")
    if kept := settings.url_parameter():
        cloud.keep_secret(kept, settings.database_url)
        options.report(f"The URL of the database is kept in Systems Manager as {kept}")
    if url:
        _migrate(url, options)
    addresses = {function: f"s3://{bucket}/{key}" for function, (bucket, key) in code.items()}
    options.report(f"The stack {settings.stack}:")
    body = template.filled(made.template, addresses)
    if not cloud.change(settings.stack, body, made.parameters, made.found, options.report):
        options.report("  nothing to change")
    bucket = next(iter(code.values()))[0]
    cloud.prune(bucket, f"{settings.stack}/", {key for _, key in code.values()})
    stack = cloud.stack(settings.stack)
    assert stack is not None, "it was made just now"
    if not url:
        _migrate(_url_of(cloud, stack), options)
    options.report(f"\nEndpoint: {stack.outputs['Endpoint']}\n")
    options.report(guide.connect(
        stack.outputs["Endpoint"], cloud.region, options.namespace or "default", made.complete["AuthMode"]
    ))  # fmt: skip
    options.report(guide.costs(made.complete, guide.alarms_of(made.template), cloud.region))


def destroy(cloud: Cloud, name: str, options: Options, *, delete_data: bool = False) -> None:
    """Delete the stack and what `deploy` created beside it. Raises DeployError."""
    found = cloud.stack(name)
    if found is None:
        raise DeployError(f"there is no stack {name} in {cloud.region} of the account {cloud.account}")
    created = found.parameters.get("CreateDatabase", "none")
    cluster = found.outputs.get("DatabaseHost", "none")
    kept = {
        "none": "your database is not touched",
        "dsql": f"the DSQL cluster {cluster} {'goes WITH ALL DATA' if delete_data else 'stays'}",
        "aurora-serverless": "the Aurora cluster goes and leaves a snapshot",
    }[created]
    options.report(f"Delete the stack {name} in {cloud.region} of the account {cloud.account}: {kept}.")
    if options.dry_run:
        options.report("Nothing was changed (--dry-run).")
        return
    if not options.confirm("Go on?"):
        raise DeployError("nothing was changed")
    cloud.delete(name, options.report)
    if bucket := cloud.bucket(create=False):
        cloud.prune(bucket, f"{name}/")
    if found.parameters.get("DatabaseUrlParameter") == f"/{name}/database-url":
        cloud.forget_secret(f"/{name}/database-url")
    if found.parameters.get("DatabaseCaParameter") == f"/{name}/database-ca":
        cloud.forget_secret(f"/{name}/database-ca")
    if created == "dsql" and delete_data:
        cloud.delete_dsql(cluster.partition(".")[0])
    options.report(f"The stack {name} is gone; {kept}.")


def _outline(made: Plan, account: str, region: str, found: Stack | None) -> str:
    target, memory_mb = made.target, made.complete["MemorySize"]
    database = made.complete["CreateDatabase"]
    where = (
        f"created: {database}" if database != "none"
        else "in the functions' environment" if made.complete["DatabaseUrl"]
        else f"kept in {made.complete['DatabaseUrlParameter'] or made.complete['DatabaseUrlSecretArn']}"
    )  # fmt: skip
    lines = {
        "account": f"{account}, {region}",
        "stack": f"{made.settings.stack}, {'new' if made.found is None else f'there ({made.found.status})'}",
        "functions": f"{', '.join(FUNCTIONS)}: {target.runtime}, {target.architecture}, {memory_mb} MB",
        "database": where,
        "callers": made.complete["AuthMode"],
        "sweep": made.complete["SweepRate"],
    }
    hidden = {"DatabaseUrl"}
    said = {name: value for name, value in made.parameters.items() if value and name not in hidden}
    listed = "\n".join(f"  {name:<10} {value}" for name, value in lines.items())
    return f"{listed}\n  parameters {', '.join(f'{name}={value}' for name, value in said.items()) or 'as they are'}"


def _upload(cloud: Cloud, made: Plan, options: Options) -> dict[str, tuple[str, str]]:
    """Build and upload the bundles; return bucket and key by function."""
    bucket = cloud.bucket()
    code: dict[str, tuple[str, str]] = {}
    with tempfile.TemporaryDirectory(prefix="whistlestop-") as scratch:
        for function in FUNCTIONS:
            archive = _archive(function, made.target, Path(scratch), options)
            digest = hashlib.sha256(archive.read_bytes()).hexdigest()[:20]
            key = f"{made.settings.stack}/{function}-{digest}.zip"
            sent = cloud.upload(bucket, key, archive)
            options.report(f"  s3://{bucket}/{key}{'' if sent else ' is there already'}")
            code[function] = (bucket, key)
    return code


def _archive(function: str, target: Target, scratch: Path, options: Options) -> Path:
    if options.bundles is not None:
        given = options.bundles / f"{function}.zip"
        if not given.is_file():
            raise DeployError(f"there is no {given}")
        return given
    try:
        compiled = bundle(function, target, scratch / function)
    except BundleError as error:
        raise DeployError(str(error)) from error
    if not compiled:
        options.report(f"no {target.runtime} here: {function} is built without bytecode, and starts more slowly")
    options.report(f"{function}: {size(scratch / function) / 1e6:.1f} MB for {target.runtime} on {target.architecture}")
    archive = scratch / f"{function}.zip"
    pack(scratch / function, archive)
    return archive


def _url(cloud: Cloud, made: Plan) -> str:
    """Return the URL of a database that exists before the stack is changed; empty if the stack creates it."""
    if made.settings.database_url:
        with _in_words():
            return signed_in(_as_functions(made), cloud.aws())
    if made.found is not None and "CreateDatabase" not in made.parameters:
        return _url_of(cloud, made.found)
    return ""


def _url_of(cloud: Cloud, stack: Stack) -> str:
    """Return the URL of the database that the stack's functions use."""
    environ = cloud.environment(stack.outputs["HistoryFunctionName"])
    settings = read(FunctionSettings, environ)
    secret = stack.outputs.get("DatabaseSecret", _NONE)
    with _in_words():
        if not settings.database_user or secret == _NONE:
            return signed_in(settings, cloud.aws())
        # The stack created the database: its administrator creates the role, and then the tables as that role.
        administrator = replace(settings, database_user="", database_secret=secret)
        return _with_role(signed_in(administrator, cloud.aws()), settings.database_user)


def _as_functions(made: Plan) -> FunctionSettings:
    """Return how functions will reach the given database. Its CA certificates may not be stored in AWS yet."""
    parameter, secret = made.complete["DatabaseCaParameter"], made.complete["DatabaseCaSecretArn"]
    kept = f"ssm:{parameter}" if parameter else f"secretsmanager:{secret}" if secret else ""
    return FunctionSettings(
        database_url=made.settings.database_url, database_user=made.complete["DatabaseUser"],
        database_tls=made.complete["DatabaseTls"], database_ca=made.settings.database_ca or kept,
    )  # fmt: skip


def _with_role(url: str, name: str) -> str:
    """Create the role that functions sign in as; return a URL for a session that acts as it."""
    import asyncio

    from whistlestop.storage.errors import StorageError
    from whistlestop.storage.postgres.roles import as_role, create_role

    try:
        asyncio.run(create_role(url, name, iam=True))
    except StorageError as error:
        raise DeployError(str(error)) from error
    return as_role(url, name)


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except (AwsError, ValueError) as error:
        raise DeployError(f"the URL of the database can't be read: {error}") from error


def _migrate(url: str, options: Options) -> None:
    """Migrate the schema to this release, and register the namespace."""
    if options.prepare is None:
        options.report("The schema is left as it is (--no-migrate): see `whistlestop db migrate`")
        return
    applied, registered = options.prepare(url, options.namespace)
    options.report(f"The schema: {f'applied {applied} migrations' if applied else 'nothing to do'}")
    if registered:
        options.report(f"The namespace {options.namespace} is registered")
