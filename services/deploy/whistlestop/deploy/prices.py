"""The cost of a stack: list prices, and the arithmetic from counted usage to dollars a month.

Used by `whistlestop deploy aws` for its estimate and by `docs/cost.md`. Prices are on-demand list prices in US
dollars for the region us-east-1, without taxes, transfer or support. When you change one, update `CHECKED`. The
source of each group of prices is given beside it.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Final, Self

from whistlestop.common.lazy_dataclasses import dataclass

CHECKED: Final = "2026-07"
"""Year and month of the price lists against which these were last checked."""

HOURS_A_MONTH: Final = 730.0
MINUTES_A_MONTH: Final = HOURS_A_MONTH * 60
MILLION: Final = 1_000_000.0
LAMBDA_POLLERS: Final = 5
"""Long polls, of 20 seconds each, with which Lambda watches an idle queue."""
_LONG_POLL_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Prices:
    """A price list. `free_*` is what AWS gives every account each month, without a time limit."""

    # aws.amazon.com/lambda/pricing
    lambda_million_requests: float = 0.20
    lambda_gb_second_arm64: float = 0.0000133334
    lambda_gb_second_x86_64: float = 0.0000166667
    free_lambda_requests: float = 1_000_000
    free_lambda_gb_seconds: float = 400_000
    # aws.amazon.com/sqs/pricing (standard queues), aws.amazon.com/eventbridge/pricing (Scheduler)
    sqs_million_requests: float = 0.40
    free_sqs_requests: float = 1_000_000
    scheduler_million: float = 1.00
    free_scheduler: float = 14_000_000
    # aws.amazon.com/cloudwatch/pricing
    logs_gb: float = 0.50
    free_logs_gb: float = 5
    alarm_month: float = 0.10
    free_alarms: float = 10
    # aws.amazon.com/rds/aurora/dsql/pricing, aws.amazon.com/rds/aurora/pricing (standard configuration)
    dsql_million_dpu: float = 8.00
    dsql_gb_month: float = 0.33
    free_dsql_dpu: float = 100_000
    free_dsql_gb: float = 1
    aurora_acu_hour: float = 0.12
    aurora_gb_month: float = 0.10
    aurora_million_io: float = 0.20
    secret_month: float = 0.40

    # Prices of alternatives.
    # aws.amazon.com/rds/postgresql/pricing, one zone
    rds_t4g_micro_hour: float = 0.016
    rds_t4g_small_hour: float = 0.032
    rds_gp3_gb_month: float = 0.115
    # aws.amazon.com/ec2/pricing/on-demand, aws.amazon.com/vpc/pricing, aws.amazon.com/ebs/pricing
    ec2_t4g_small_hour: float = 0.0168
    ec2_t4g_medium_hour: float = 0.0336
    ipv4_hour: float = 0.005
    ebs_gp3_gb_month: float = 0.08
    # aws.amazon.com/fargate/pricing, Linux on ARM
    fargate_vcpu_hour: float = 0.03238
    fargate_gb_hour: float = 0.00356
    # aws.amazon.com/step-functions/pricing, standard workflows
    step_functions_million_transitions: float = 25.00
    free_step_functions_transitions: float = 4_000
    # docs.temporal.io/cloud/pricing: the plan Essentials, and actions up to five millions a month
    temporal_essentials_month: float = 100.00
    temporal_essentials_actions: float = 1_000_000
    temporal_million_actions: float = 50.00


LIST: Final = Prices()


@dataclass(frozen=True, slots=True)
class Usage:
    """Counted or expected usage in some period. Usages can be added and scaled."""

    invocations: float = 0.0
    """Of all three functions together."""
    gb_seconds: float = 0.0
    sqs_requests: float = 0.0
    schedules_fired: float = 0.0
    statements: float = 0.0
    """SQL statements. Their price depends on the database: see `dpu`."""
    dpu: float = 0.0
    """Distributed processing units of an Aurora DSQL cluster."""
    log_gb: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def __mul__(self, times: float) -> Usage:
        return Usage(*(getattr(self, each.name) * times for each in fields(self)))

    @classmethod
    def of_calls(cls, calls: float, mean_ms: float, memory_mb: int = 512) -> Self:
        """Return the usage of invocations that take `mean_ms` each, as Lambda bills them."""
        return cls(invocations=calls, gb_seconds=calls * mean_ms / 1000 * memory_mb / 1024)


@dataclass(frozen=True, slots=True)
class Bill:
    """Dollars by item."""

    functions: float = 0.0
    queues: float = 0.0
    schedules: float = 0.0
    logs: float = 0.0
    alarms: float = 0.0
    database: float = 0.0

    @property
    def total(self) -> float:
        return sum(float(getattr(self, each.name)) for each in fields(self))

    def lines(self) -> dict[str, float]:
        return {each.name: value for each in fields(self) if (value := getattr(self, each.name)) >= 0.005}


def bill(
    usage: Usage,
    *,
    prices: Prices = LIST,
    architecture: str = "arm64",
    free_tier: bool = True,
    alarms: int = 0,
    database_month: float = 0.0,
) -> Bill:
    """Return the bill for a month of `usage`.

    `database_month` is the database's cost beyond DSQL's units, in US dollars a month.
    """
    free = 1.0 if free_tier else 0.0

    def beyond(used: float, given: float) -> float:
        return max(used - given * free, 0.0)

    gb_second = prices.lambda_gb_second_arm64 if architecture == "arm64" else prices.lambda_gb_second_x86_64
    return Bill(
        functions=beyond(usage.invocations, prices.free_lambda_requests) / MILLION * prices.lambda_million_requests
        + beyond(usage.gb_seconds, prices.free_lambda_gb_seconds) * gb_second,
        queues=beyond(usage.sqs_requests, prices.free_sqs_requests) / MILLION * prices.sqs_million_requests,
        schedules=beyond(usage.schedules_fired, prices.free_scheduler) / MILLION * prices.scheduler_million,
        logs=beyond(usage.log_gb, prices.free_logs_gb) * prices.logs_gb,
        alarms=beyond(alarms, prices.free_alarms) * prices.alarm_month,
        database=beyond(usage.dpu, prices.free_dsql_dpu) / MILLION * prices.dsql_million_dpu + database_month,
    )


def idle_month(*, sweep_minutes: float = 15.0, sweep_ms: float = 50.0, memory_mb: int = 512) -> Usage:
    """Return the usage of an idle stack: sweeps, daily housekeeping, and Lambda's polls of the wake-up queue."""
    sweeps = MINUTES_A_MONTH / sweep_minutes
    days = HOURS_A_MONTH / 24
    calls = Usage.of_calls(sweeps + days, sweep_ms, memory_mb)
    polls = LAMBDA_POLLERS * MINUTES_A_MONTH * 60 / _LONG_POLL_S
    return calls + Usage(sqs_requests=polls, schedules_fired=sweeps + days)


def idle_worker_month(
    *, calls_a_minute: float = 2.0, notifications: bool = False, mean_ms: float = 30.0, memory_mb: int = 512
) -> Usage:
    """Return the usage of an idle worker behind a bridge. A call is two invocations: frontend and matching."""
    calls = Usage.of_calls(2 * calls_a_minute * MINUTES_A_MONTH, mean_ms, memory_mb)
    polls = MINUTES_A_MONTH * 60 / _LONG_POLL_S if notifications else 0.0
    return calls + Usage(sqs_requests=polls)


# ---- the alternatives ----------------------------------------------------------------------------------------------


def temporal_cloud(actions: float, prices: Prices = LIST) -> float:
    """Return the price in US dollars of a month of Temporal Cloud's plan Essentials. It includes a million actions."""
    more = max(actions - prices.temporal_essentials_actions, 0.0)
    return prices.temporal_essentials_month + more / MILLION * prices.temporal_million_actions


def step_functions(transitions: float, prices: Prices = LIST) -> float:
    """Return the price in US dollars of a month of standard workflows in AWS Step Functions."""
    billed = max(transitions - prices.free_step_functions_transitions, 0.0)
    return billed / MILLION * prices.step_functions_million_transitions


def small_ec2(prices: Prices = LIST, *, own_database: bool = True) -> float:
    """Return the price in US dollars of a month of this server on a t4g.small with 20 GB.

    The state is in SQLite on its disk or (`own_database`) in a db.t4g.micro.
    """
    hourly = prices.ec2_t4g_small_hour + prices.ipv4_hour
    return hourly * HOURS_A_MONTH + 20 * prices.ebs_gp3_gb_month + (small_rds(prices) if own_database else 0.0)


def small_fargate(prices: Prices = LIST) -> float:
    """Return the price in US dollars of a month of this server as a Fargate task with a db.t4g.micro.

    The task has half a vCPU and 1 GB.
    """
    hourly = prices.fargate_vcpu_hour * 0.5 + prices.fargate_gb_hour * 1 + prices.ipv4_hour
    return hourly * HOURS_A_MONTH + small_rds(prices)


def small_rds(prices: Prices = LIST) -> float:
    """Return the price in US dollars of a month of a db.t4g.micro with 20 GB."""
    return prices.rds_t4g_micro_hour * HOURS_A_MONTH + 20 * prices.rds_gp3_gb_month
