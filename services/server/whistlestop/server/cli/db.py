"""`whistlestop db migrate | status | backup | check | role`."""

from __future__ import annotations

from typing import Annotated

import typer

from whistlestop.server.cli.api_access import DatabaseUrl, DbFilename, open_store, run
from whistlestop.server.cli.output import Output, print_json, print_table, wants_json

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.command()
def migrate(
    db_filename: DbFilename = "",
    database_url: DatabaseUrl = "",
    contract: Annotated[
        bool, typer.Option("--contract", help="Also drop what only older releases need; they cannot start afterwards.")
    ] = False,
    output: Output = "table",
) -> None:
    """Migrate the schema to this release; a SQLite file is created if it does not exist."""
    as_json = wants_json(output)

    async def work() -> None:
        async with open_store(db_filename, database_url, create=True) as (store, config):
            applied = await store.migrate(contract=contract)
            schema = await store.schema_status()
        if as_json:
            fields = {"applied": applied, "schema_version": schema.version, "contracts": schema.contracts}
            print_json({"store": config.describe(), **fields})
            return
        done = f"applied {', '.join(applied)};" if applied else "nothing to do,"
        print(f"{config.describe()}: {done} the schema is at version {schema.version}")
        if schema.contracts:
            print(f"To apply with --contract once no older release runs: {', '.join(schema.contracts)}")

    run(work)


@app.command()
def status(db_filename: DbFilename = "", database_url: DatabaseUrl = "", output: Output = "table") -> None:
    """Show the schema's version; the exit code is 1 if migrations of this release are missing."""
    as_json = wants_json(output)

    async def work() -> bool:
        async with open_store(db_filename, database_url) as (store, config):
            await store.ping()
            schema = await store.schema_status()
        if schema.pending:
            verdict = "needs `whistlestop db migrate`"
        elif schema.version > schema.release_version:
            verdict = "up to date, and prepared for a newer release"
        else:
            verdict = "up to date"
        have, want = schema.version, schema.release_version
        if as_json:
            fields = {"schema_version": have, "release_version": want, "status": verdict}
            print_json({"store": config.describe(), **fields, "pending": schema.pending, "contracts": schema.contracts})
        else:
            print_table(("store", "schema", "this release", "status"), [(config.describe(), have, want, verdict)])
        return not schema.pending

    if not run(work):
        raise typer.Exit(1)


@app.command()
def backup(
    target: Annotated[str, typer.Argument(help="File or folder of the copy, which must not exist yet.")],
    db_filename: DbFilename = "",
    database_url: DatabaseUrl = "",
) -> None:
    """Write a consistent copy while servers keep running."""

    async def work() -> None:
        async with open_store(db_filename, database_url) as (store, config):
            await store.backup(target)
        print(f"{config.describe()}: copied to {target}")

    run(work)


@app.command()
def check(
    db_filename: DbFilename = "",
    database_url: DatabaseUrl = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="Stop after this many findings.")] = 100,
    output: Output = "table",
) -> None:
    """Check the invariants of the stored state; the exit code is 1 if one is violated."""
    from whistlestop.server.unreadable import unreadable

    as_json = wants_json(output)

    async def work() -> int:
        async with open_store(db_filename, database_url) as (store, config):
            findings = await store.check(limit)
            known = {(finding.table, finding.key) for finding in findings}
            for finding in await unreadable(store, limit):
                if (finding.table, finding.key) not in known and len(findings) < limit:
                    findings.append(finding)
        rows = [(finding.table, finding.key, finding.problem) for finding in findings]
        if as_json:
            print_json([dict(zip(("table", "key", "problem"), row, strict=True)) for row in rows])
        elif rows:
            print_table(("table", "key", "problem"), rows)
        else:
            print(f"{config.describe()}: no findings")
        return len(rows)

    if run(work):
        raise typer.Exit(1)


@app.command()
def role(
    name: Annotated[str, typer.Argument(help="Name of the role and of its schema.")],
    database_url: DatabaseUrl = "",
    iam: Annotated[
        bool, typer.Option("--iam", help="Sign in with IAM tokens (RDS, Aurora) instead of a password.")
    ] = False,
) -> None:
    """Create a role that owns its schema and nothing else. Prints its URL with the password, which is not stored.

    --database-url is an administrator's. Data of servers that use another schema is not moved.
    """
    import secrets
    from urllib.parse import urlsplit

    from whistlestop.server.cli.errors import CommandError
    from whistlestop.storage.postgres.roles import create_role

    if not database_url:
        raise CommandError("give an administrator's --database-url postgresql://…", 2)
    password = "" if iam else secrets.token_urlsafe(24)

    async def work() -> None:
        await create_role(database_url, name, password=password, iam=iam)

    run(work)
    parts = urlsplit(database_url)
    login = name if iam else f"{name}:{password}"
    print(parts._replace(netloc=f"{login}@{parts.netloc.rpartition('@')[2]}").geturl())
