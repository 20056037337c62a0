"""Search attributes, memo, list and count. Each test marks its runs with a shop of its own."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from temporalio import workflow
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode

from tests.sdk.support import (
    DUE,
    FRAGILE,
    LABELS,
    NOTE,
    PARTS,
    SHOP,
    WEIGHT,
    event_of,
    new,
    on_every_store,
    worker,
)  # fmt: skip

if TYPE_CHECKING:
    from temporalio.client import Client, WorkflowHandle

WHEN = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Shop:
    """A shop's parcels. Nobody works on their queue."""

    client: Client
    name: str
    queue: str

    async def parcel(
        self, *pairs: SearchAttributePair[int] | SearchAttributePair[str], memo: dict[str, object] | None = None
    ) -> WorkflowHandle[object, object]:
        attributes = TypedSearchAttributes([SearchAttributePair(SHOP, self.name), *pairs])
        return await self.client.start_workflow(
            "Parcel", id=new("parcel"), task_queue=self.queue, search_attributes=attributes, memo=memo
        )

    async def ids(self, query: str = "", page_size: int = 100) -> list[str]:
        query = f"Shop = '{self.name}'{query and ' AND '}{query}"
        return [run.id async for run in self.client.list_workflows(query, page_size=page_size)]


@pytest.fixture
async def shop(client: Client) -> Shop:
    return Shop(client, new("shop"), new("queue"))


@workflow.defn
class Marks:
    @workflow.run
    async def run(self) -> str:
        workflow.upsert_search_attributes([SHOP.value_set("new"), PARTS.value_unset()])
        workflow.upsert_memo({"colour": "red", "size": None})
        await workflow.wait_condition(lambda: False)
        return ""


@on_every_store
async def test_attributes_of_every_type_come_back(client: Client) -> None:
    attributes = TypedSearchAttributes(
        [
            SearchAttributePair(SHOP, "corner"), SearchAttributePair(PARTS, 3), SearchAttributePair(WEIGHT, 1.5),
            SearchAttributePair(FRAGILE, True), SearchAttributePair(DUE, WHEN), SearchAttributePair(LABELS, ["a", "b"]),
            SearchAttributePair(NOTE, "handle with care"),
        ]
    )  # fmt: skip
    handle = await client.start_workflow(
        "Parcel", id=new("parcel"), task_queue=new("queue"), search_attributes=attributes
    )
    assert (await handle.describe()).typed_search_attributes.search_attributes == attributes.search_attributes or {
        pair.key.name: pair.value for pair in (await handle.describe()).typed_search_attributes
    } == {pair.key.name: pair.value for pair in attributes}
    await handle.terminate()


@on_every_store
async def test_a_list_after_a_start_shows_the_start(shop: Shop) -> None:
    handle = await shop.parcel()
    assert await shop.ids() == [handle.id]


FILTERS = [
    ("Parts = 2", [2]),
    ("Parts > 1", [2, 3]),
    ("Parts BETWEEN 1 AND 2", [1, 2]),
    ("Parts IN (1, 3)", [1, 3]),
    ("Parts != 2", [1, 3]),
    ("(Parts = 1 OR Parts = 3) AND ExecutionStatus = 'Running'", [1, 3]),
    ("Note = 'number'", [1, 2, 3]),
    ("Note = 'two'", [2]),
    ("Parts IS NULL", []),
    ("WorkflowType = 'Parcel'", [1, 2, 3]),
    ("WorkflowType STARTS_WITH 'Par'", [1, 2, 3]),
    ("ExecutionStatus = 'Completed'", []),
    ("CloseTime IS NULL", [1, 2, 3]),
    ("StartTime > '2020-01-01T00:00:00Z'", [1, 2, 3]),
]


@on_every_store
async def test_filters_find_what_they_say(shop: Shop) -> None:
    words = {1: "number one", 2: "number two", 3: "number three"}
    parcels = {
        (await shop.parcel(SearchAttributePair(PARTS, number), SearchAttributePair(NOTE, words[number]))).id: number
        for number in words
    }
    found = [(query, sorted(parcels[one] for one in await shop.ids(query))) for query, _ in FILTERS]
    assert found == FILTERS


async def test_a_list_shows_the_latest_start_first(shop: Shop) -> None:
    started = [(await shop.parcel()).id for _ in range(4)]
    assert await shop.ids() == started[::-1]


@on_every_store
async def test_a_list_comes_whole_in_pages(shop: Shop) -> None:
    started = [(await shop.parcel()).id for _ in range(7)]
    assert await shop.ids(page_size=3) == started[::-1]


@on_every_store
async def test_a_count_counts(shop: Shop, client: Client) -> None:
    for _ in range(3):
        await shop.parcel()
    assert (await client.count_workflows(f"Shop = '{shop.name}'")).count == 3


async def test_a_count_goes_by_status(shop: Shop, client: Client) -> None:
    for _ in range(2):
        await shop.parcel()
    await (await shop.parcel()).terminate()
    count = await client.count_workflows(f"Shop = '{shop.name}' GROUP BY ExecutionStatus")
    groups = {group.group_values[0]: group.count for group in count.groups}
    assert (count.count, groups) == (3, {"Running": 2, "Terminated": 1})


async def test_a_list_shows_an_end_at_once(shop: Shop) -> None:
    handle = await shop.parcel()
    await handle.terminate()
    assert await shop.ids("ExecutionStatus = 'Terminated' AND CloseTime IS NOT NULL") == [handle.id]


@pytest.mark.parametrize("query", ["Nothing = 1", "Parts = ", "Parts = 'many'", "ExecutionStatus = 'Sideways'"])
async def test_a_bad_filter_is_refused(client: Client, query: str) -> None:
    with pytest.raises(RPCError) as refused:
        _ = [run async for run in client.list_workflows(query)]
    assert refused.value.status is RPCStatusCode.INVALID_ARGUMENT


async def test_an_unknown_attribute_is_refused(client: Client) -> None:
    attributes = TypedSearchAttributes([SearchAttributePair(SHOP.for_keyword("Unknown"), "x")])
    with pytest.raises(RPCError) as refused:
        await client.start_workflow("Parcel", id=new("p"), task_queue=new("queue"), search_attributes=attributes)
    assert refused.value.status is RPCStatusCode.INVALID_ARGUMENT


async def test_a_memo_is_in_the_list_and_in_the_description(shop: Shop, client: Client) -> None:
    handle = await shop.parcel(memo={"colour": "blue", "size": {"w": 1}})
    (listed,) = [run async for run in client.list_workflows(f"Shop = '{shop.name}'")]
    assert await listed.memo() == await (await handle.describe()).memo() == {"colour": "blue", "size": {"w": 1}}


@on_every_store
async def test_a_workflow_changes_its_attributes_and_memo(client: Client) -> None:
    async with worker(client, Marks) as queue:
        handle = await client.start_workflow(
            Marks.run, id=new("marks"), task_queue=queue, memo={"colour": "blue", "size": 4, "kept": True},
            search_attributes=TypedSearchAttributes([SearchAttributePair(SHOP, "old"), SearchAttributePair(PARTS, 1)]),
        )  # fmt: skip
        await event_of(handle, "WORKFLOW_PROPERTIES_MODIFIED")
        described = await handle.describe()
        await handle.terminate()
    assert (described.typed_search_attributes.get(SHOP), described.typed_search_attributes.get(PARTS)) == ("new", None)
    assert await described.memo() == {"colour": "red", "kept": True}
