"""What peers may cost before it is known who they are. No test here does I/O or waits."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from itertools import pairwise

import pytest

from whistlestop.net.budget import Account, Bounds, Bucket, Budget, Request, Share, address_name

SMALL = Bounds(
    connection=Share(1, 2, 100, 0.1, 0.1),
    address=Share(3, 4, 150, 0.2, 0.2),
    process=Share(5, 6, 220, 0.4, 0.4),
    all_connections=7,
    request_s=10.0,
    idle_s=30.0,
    authenticated_idle_s=120.0,
)


class FakePeer:
    def __init__(self) -> None:
        self.number = 0
        self.busy = False
        self.said: list[str] = []

    def activity(self) -> int:
        return self.number

    def is_busy(self) -> bool:
        return self.busy

    def close_idle(self) -> None:
        self.said.append("idle")

    def abort(self) -> None:
        self.said.append("abort")


class World:
    def __init__(self, bounds: Bounds = SMALL) -> None:
        self.now = 1_000.0
        self.budget = Budget(lambda: self.now, bounds)
        self.peers: dict[Account, FakePeer] = {}
        self.expired: list[Request] = []

    def connect(self, address: str = "192.0.2.1") -> Account:
        peer = FakePeer()
        account = self.budget.connect((address, 50_000), peer)
        assert account is not None
        self.peers[account] = peer
        return account

    def open(self, account: Account) -> Request:
        found: list[Request] = []
        request = account.open_request(lambda: self.expired.append(found[0]))
        assert request is not None
        found.append(request)
        return request


@pytest.fixture
def world() -> World:
    return World()


# -- connections --


def test_the_oldest_connection_of_an_address_makes_room(world: World) -> None:
    first, *others = [world.connect() for _ in range(4)]

    assert world.peers[first].said == ["abort"]
    assert not first.is_open
    assert all(each.is_open for each in others)
    assert world.budget.unauthenticated == 3


def test_the_address_that_has_most_makes_room_for_the_process(world: World) -> None:
    quiet = world.connect("192.0.2.9")
    greedy = [world.connect() for _ in range(3)]
    world.connect("192.0.2.2")

    world.connect("192.0.2.3")

    assert [each.is_open for each in (quiet, *greedy)] == [True, False, True, True]


def test_answered_connections_count_as_younger_than_silent_ones(world: World) -> None:
    asked, silent, _ = (world.connect() for _ in range(3))
    world.open(asked).close()

    world.connect()

    assert asked.is_open
    assert not silent.is_open


def test_authenticated_connections_do_not_count_and_are_not_closed_for_others(world: World) -> None:
    known = world.connect()
    known.authenticate()
    for _ in range(20):
        world.connect()

    assert known.is_open
    assert len(world.budget) == 4


def test_when_all_are_authenticated_a_new_connection_is_refused(world: World) -> None:
    for _ in range(7):
        world.connect().authenticate()

    assert world.budget.connect(("192.0.2.1", 1), FakePeer()) is None
    assert not world.budget.make_room()


def test_at_the_limit_of_the_process_an_unauthenticated_one_is_closed(world: World) -> None:
    for _ in range(6):
        world.connect().authenticate()
    stranger = world.connect("192.0.2.7")

    world.connect("192.0.2.8")

    assert world.peers[stranger].said == ["abort"]
    assert len(world.budget) == 7


def test_closing_twice_counts_once(world: World) -> None:
    account = world.connect()
    account.close()
    account.close()
    account.authenticate()

    assert (len(world.budget), world.budget.unauthenticated) == (0, 0)


# -- requests and bytes --


def test_a_connection_is_refused_more_requests_than_it_may_have(world: World) -> None:
    account = world.connect()
    world.open(account)
    first = world.open(account)

    assert account.open_request(lambda: None) is None
    first.close()
    assert account.open_request(lambda: None) is not None


def test_the_oldest_request_of_an_address_makes_room(world: World) -> None:
    accounts = [world.connect() for _ in range(3)]
    requests = [world.open(account) for account in accounts for _ in range(2)]

    assert world.expired == requests[:2]
    assert world.budget.request_count == 4


def test_a_connection_is_refused_more_bytes_than_it_may_have(world: World) -> None:
    request = world.open(world.connect())

    assert request.count_bytes(60)
    assert not request.count_bytes(41)
    assert request.count_bytes(40)
    request.release(50)
    assert request.count_bytes(50)


def test_the_oldest_request_makes_room_for_the_bytes_of_another(world: World) -> None:
    old, young = world.open(world.connect()), world.open(world.connect())
    old.count_bytes(100)

    assert young.count_bytes(100)

    assert world.expired == [old]
    assert world.budget.bytes == 100


def test_the_greediest_address_makes_room_for_the_process(world: World) -> None:
    one, two, three = (world.open(world.connect(f"192.0.2.{n}")) for n in (1, 2, 3))
    one.count_bytes(80)
    two.count_bytes(100)

    assert three.count_bytes(80)

    assert world.expired == [two]
    assert world.budget.bytes == 160


def test_bytes_of_authenticated_requests_and_closed_connections_are_given_back(world: World) -> None:
    account, other = world.connect(), world.connect()
    request = world.open(account)
    request.count_bytes(70)
    request.authenticate()
    world.open(other).count_bytes(50)
    other.close()

    assert account.authenticated
    assert request.count_bytes(10_000)
    assert (world.budget.bytes, world.budget.request_count) == (0, 0)


def test_all_counts_return_to_zero_after_any_sequence() -> None:
    """Whatever is opened, held, finished, restarted and closed: at the end nothing is counted."""
    for seed in range(50):
        draw = random.Random(seed)
        world = World()
        accounts: list[Account] = []
        requests: list[Request] = []
        for _ in range(300):
            world.now += draw.random()
            kind = draw.randrange(9)
            if kind == 0:
                accounts.append(world.connect(f"192.0.2.{draw.randrange(4)}"))
            elif kind == 1 and accounts:
                opened = draw.choice(accounts).open_request(lambda: None)
                requests += [opened] if opened is not None else []
            elif kind == 2 and accounts and draw.random() < 0.2:
                draw.choice(accounts).authenticate()
            elif kind == 3 and accounts:
                draw.choice(accounts).close()
            elif kind == 4:
                world.budget.sweep()
            elif requests:
                request = draw.choice(requests)
                size = draw.randrange(50)
                (partial(request.count_bytes, size), request.finish, request.restart, request.close)[kind - 5]()
            budget = world.budget
            assert budget.bytes <= SMALL.process.bytes, seed
            assert budget.unauthenticated <= SMALL.process.connections, seed
            assert len(budget) <= SMALL.all_connections, seed
        for account in accounts:
            account.close()
        world.now += 1_000
        world.budget.sweep()
        assert (world.budget.bytes, world.budget.request_count, len(world.budget.requests)) == (0, 0, 0), seed
        assert (len(world.budget), world.budget.unauthenticated) == (0, 0), seed


# -- age --


def test_a_request_that_stays_unfinished_expires(world: World) -> None:
    account = world.connect()
    old = world.open(account)
    world.now += 6
    young = world.open(account)
    world.now += 5
    world.budget.sweep()
    assert world.expired == [old]

    world.now += 5
    world.budget.sweep()
    assert world.expired == [old, young]


def test_a_finished_request_does_not_expire_until_it_begins_anew(world: World) -> None:
    request = world.open(world.connect())
    request.finish()
    world.now += 1_000
    world.budget.sweep()
    assert world.expired == []

    request.restart()
    world.now += 11
    world.budget.sweep()
    assert world.expired == [request]


def test_an_idle_connection_is_closed(world: World) -> None:
    idle, busy, active = (world.connect() for _ in range(3))
    known = world.connect("192.0.2.2")
    known.authenticate()
    world.peers[busy].busy = True
    for _ in range(31):
        world.now += 1
        world.peers[active].number += 1
        world.budget.sweep()
    assert [world.peers[each].said for each in (idle, busy, active, known)] == [["idle"], [], [], []]

    world.now += 120
    world.budget.sweep()
    assert world.peers[known].said == ["idle"]


def test_a_sweep_checks_a_bounded_number_of_connections() -> None:
    world = World(Bounds())
    accounts = [world.connect(f"192.0.2.{n}") for n in range(30)]
    world.budget.sweep()
    world.now += 31

    world.budget.sweep(most=10)
    assert sum(world.peers[each].said == ["idle"] for each in accounts) == 10
    world.budget.sweep(most=20)
    assert all(world.peers[each].said == ["idle"] for each in accounts)


def test_addresses_without_connections_are_forgotten_when_their_debt_is_paid(world: World) -> None:
    account = world.connect()
    account.spend_cpu(1.0)
    account.close()
    world.budget.sweep()
    assert list(world.budget._addresses) == ["192.0.2.1"]

    world.now += 60
    world.budget.sweep()
    assert not world.budget._addresses


# -- CPU time --


def test_a_bucket_pays_its_debt_at_its_rate() -> None:
    bucket = Bucket(0.5, 1.0, 0.0)

    assert bucket.spend(1.0, 0.0) == 0.0
    assert bucket.spend(0.5, 0.0) == pytest.approx(1.0)
    assert bucket.spend(0.0, 1.0) == pytest.approx(0.0)
    assert bucket.spend(1.0, 100.0) == 0.0


def test_a_connection_rests_once_it_has_spent_its_cpu_time(world: World) -> None:
    account = world.connect()

    assert account.spend_cpu(0.1) == 0.0
    assert account.spend_cpu(0.05) == pytest.approx(0.5)
    assert account.spend_cpu(50.0) == 10.0  # no longer at a time


def test_a_new_connection_may_spend_a_little_beside_an_attack_from_its_address(world: World) -> None:
    world.connect().spend_cpu(0.25)
    account = world.connect()

    assert account.spend_cpu(0.015) == 0.0
    assert account.spend_cpu(0.015) > 0.0


def test_beside_a_large_attack_it_may_spend_less(world: World) -> None:
    world.connect().spend_cpu(0.5)
    account = world.connect()

    assert account.spend_cpu(0.001) == 0.0
    assert account.spend_cpu(0.002) > 1.0


def test_connections_without_end_have_nothing_free(world: World) -> None:
    for _ in range(200):
        world.connect().spend_cpu(0.015)

    assert world.connect().spend_cpu(0.001) == 0.2


def test_an_authenticated_connection_never_rests(world: World) -> None:
    account = world.connect()
    account.authenticate()

    assert account.spend_cpu(100.0) == 0.0


# -- names --


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (("192.0.2.1", 5), "192.0.2.1"),
        (("2001:db8::1", 5, 0, 0), "2001:db8::"),
        (("2001:db8::ffff:2", 5, 0, 0), "2001:db8::"),
        (("fe80::1%eth0", 5, 0, 2), "fe80::"),
        (("::ffff:192.0.2.1", 5, 0, 0), "192.0.2.1"),
        ("/run/socket", ""),
        (None, ""),
    ],
)
def test_addresses_are_counted_by_network(name: object, expected: str) -> None:
    assert address_name(name) == expected


def test_the_bounds_of_one_fit_into_those_of_all() -> None:
    bounds = Bounds()
    shares = (bounds.connection, bounds.address, bounds.process)
    for small, large in pairwise(shares):
        for name in ("connections", "requests", "bytes", "cpu", "cpu_burst_s"):
            assert getattr(small, name) < getattr(large, name), name
    assert replace(bounds, all_connections=1).process == bounds.process
