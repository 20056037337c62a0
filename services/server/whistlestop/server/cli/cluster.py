"""`whistlestop cluster members`."""

from __future__ import annotations

import time

import typer

from whistlestop.server.cli.api_access import DatabaseUrl, DbFilename, open_store, run
from whistlestop.server.cli.output import Output, instant, print_json, print_table, wants_json

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

MAX_MEMBERS = 1000


@app.callback()
def _group() -> None:
    """Keep `members` a command of its own while it is the only one."""


@app.command()
def members(db_filename: DbFilename = "", database_url: DatabaseUrl = "", output: Output = "table") -> None:
    """List the live servers and function instances, as the database knows them.

    Slots: how many of the 16384 slots of executions the member scans for timers and transfer tasks, if several
    servers share a database.
    """
    as_json = wants_json(output)

    async def work() -> None:
        async with open_store(db_filename, database_url) as (store, _):
            found = await store.list_members(time.time_ns(), MAX_MEMBERS)
            leases = await store.list_leases()
        slots: dict[str, int] = {}
        for lease in leases:
            slots[lease.owner] = slots.get(lease.owner, 0) + lease.next_slot - lease.first_slot
        rows = [
            (
                member.role,
                f"{member.rpc_address}:{member.rpc_port}",
                instant(member.session_start_ns),
                instant(member.last_heartbeat_ns),
                instant(member.expires_ns),
                slots.get(member.host_id, 0),
                member.host_id,
            )
            for member in found
        ]
        columns = ("role", "address", "since", "last heartbeat", "expires", "slots", "host id")
        if as_json:
            keys = [column.replace(" ", "_") for column in columns]
            print_json([dict(zip(keys, row, strict=True)) for row in rows])
        else:
            print_table(columns, rows)

    run(work)
