"""The final output of a deployment: the endpoint, how to connect to it, and its cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from whistlestop.deploy import prices
from whistlestop.deploy.prices import Usage
from whistlestop.deploy.settings import sweep_minutes

if TYPE_CHECKING:
    from collections.abc import Mapping

ECHO: Final = Usage(invocations=26, gb_seconds=0.24, sqs_requests=0.1, statements=31)
"""Usage of a workflow with one activity, run one at a time by a polling worker, empty polls included: measured by
`python benchmarks/functions.py workflows` at 512 MB, as docs/cost.md reports."""
_TRANSITIONS_OF_ECHO: Final = 7
"""The start; start and end of two workflow tasks and of one activity."""
TRANSITION: Final = ECHO * (1 / _TRANSITIONS_OF_ECHO)
_ALARM = "AWS::CloudWatch::Alarm"


def connect(endpoint: str, region: str, namespace: str, auth_mode: str) -> str:
    """Return commands and code that connect to the endpoint."""
    if auth_mode == "AWS_IAM":
        flags, argument = f"--sigv4 --region {region}", f'sigv4=True, region="{region}"'
    else:
        flags, argument = "--api-key $WHISTLESTOP_API_KEY", 'api_key=os.environ["WHISTLESTOP_API_KEY"]'
    return f"""Workers and the temporal CLI, in any language, by the bridge beside them:

  whistlestop bridge --target {endpoint} {flags} --listen 127.0.0.1:7233
  temporal --address 127.0.0.1:7233 --namespace {namespace} workflow list

Workers in Python, with the bridge inside:

  import whistlestop.bridge
  async with whistlestop.bridge.connect("{endpoint}", {argument}, namespace="{namespace}") as client:
      await Worker(client, task_queue="orders", workflows=[...], activities=[...]).run()
"""


def costs(parameters: Mapping[str, str], alarms: int, region: str) -> str:
    """Return an estimate of the monthly bill by list prices. `parameters` are the template's, with defaults."""
    memory_mb, architecture = int(parameters["MemorySize"]), parameters["Architecture"]
    created = parameters["CreateDatabase"]
    idle = prices.bill(
        prices.idle_month(sweep_minutes=sweep_minutes(parameters["SweepRate"]), memory_mb=memory_mb),
        architecture=architecture, alarms=alarms,
    )  # fmt: skip
    million = prices.bill(TRANSITION * prices.MILLION, architecture=architecture, free_tier=False)
    database = {
        "dsql": "storage at $0.33 a GB, and units of work beyond what is free each month",
        "aurora-serverless": "$0.12 for each hour of a capacity unit while it is awake, and storage at $0.10 a GB",
    }.get(created, "your database, which is not in these figures")
    return f"""What it costs by list prices of us-east-1, {prices.CHECKED} ({region} may differ), before taxes:

  idle                     ${idle.total:.2f} a month{_lines(idle)}
  a million transitions    ${million.total:.2f} at 512 MB, without the free tier{_lines(million)}
  plus                     {database}
"""


def alarms_of(template: Mapping[str, Mapping[str, Mapping[str, object]]]) -> int:
    """Return the number of alarms in the template."""
    return sum(1 for each in template["Resources"].values() if each["Type"] == _ALARM)


def _lines(bill: prices.Bill) -> str:
    lines = ", ".join(f"{name} {value:.2f}" for name, value in bill.lines().items())
    return f" ({lines})" if lines else " (all of it within what AWS gives for free)"
