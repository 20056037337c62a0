"""Workflow commands as a puppet worker sends them."""

from __future__ import annotations

from typing import Any

from tests.parity.puppet import attribute, failure, payload, payloads, seconds


def command(name: str, /, **attributes: Any) -> dict[str, Any]:
    """Any command by its name in lower case."""
    return {"command_type": f"COMMAND_TYPE_{name.upper()}", f"{name}_command_attributes": attributes}


def complete_workflow(*texts: str) -> dict[str, Any]:
    return command("complete_workflow_execution", **({"result": payloads(*texts)} if texts else {}))


def fail_workflow(message: str = "derailed", **fields: Any) -> dict[str, Any]:
    return command("fail_workflow_execution", failure=failure(message, **fields))


def cancel_workflow(*texts: str) -> dict[str, Any]:
    return command("cancel_workflow_execution", **({"details": payloads(*texts)} if texts else {}))


def activity(activity_id: str = "a", queue: str = "", /, **attributes: Any) -> dict[str, Any]:
    attributes.setdefault("schedule_to_close_timeout", seconds(30))
    attributes.setdefault("activity_type", {"name": "Act"})
    attributes.setdefault("task_queue", {"name": queue})
    return command("schedule_activity_task", activity_id=activity_id, **attributes)


def cancel_activity(scheduled_event_id: int) -> dict[str, Any]:
    return command("request_cancel_activity_task", scheduled_event_id=scheduled_event_id)


def timer(timer_id: str = "t", fire_after: float = 3600) -> dict[str, Any]:
    return command("start_timer", timer_id=timer_id, start_to_fire_timeout=seconds(fire_after))


def cancel_timer(timer_id: str = "t") -> dict[str, Any]:
    return command("cancel_timer", timer_id=timer_id)


def child(workflow_id: str, queue: str, **attributes: Any) -> dict[str, Any]:
    return command(
        "start_child_workflow_execution",
        workflow_id=workflow_id,
        workflow_type={"name": "Leg"},
        task_queue={"name": queue},
        **attributes,
    )


def continue_as_new(queue: str, **attributes: Any) -> dict[str, Any]:
    attributes.setdefault("workflow_type", {"name": "Journey"})
    return command("continue_as_new_workflow_execution", task_queue={"name": queue}, **attributes)


def signal_external(workflow_id: str, name: str = "go", **attributes: Any) -> dict[str, Any]:
    return command(
        "signal_external_workflow_execution",
        execution={"workflow_id": workflow_id},
        signal_name=name,
        input=payloads("x"),
        **attributes,
    )


def cancel_external(workflow_id: str, **attributes: Any) -> dict[str, Any]:
    return command("request_cancel_external_workflow_execution", workflow_id=workflow_id, **attributes)


def marker(name: str = "m", **attributes: Any) -> dict[str, Any]:
    return command("record_marker", marker_name=name, **attributes)


def upsert_search_attributes(**attributes: str) -> dict[str, Any]:
    fields = {name: attribute(value) for name, value in attributes.items()}
    return command("upsert_workflow_search_attributes", search_attributes={"indexed_fields": fields})


def upsert_memo(**texts: str) -> dict[str, Any]:
    return command(
        "modify_workflow_properties", upserted_memo={"fields": {name: payload(text) for name, text in texts.items()}}
    )


def protocol_message(message_id: str) -> dict[str, Any]:
    return command("protocol_message", message_id=message_id)
