"""The stack's template: converted from YAML with short forms and aliases to JSON for CloudFormation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping

_BESIDE = Path(__file__).with_name("template.yaml")
"""Where it is in the wheel; a checkout has it in `infra/`."""
_CHECKOUT = Path(__file__).resolve().parents[4] / "infra" / "template.yaml"
MAX_BYTES = 51_200
"""Maximum size of a template within a request."""
_PLAIN = {"Ref", "Condition"}


class _Loader(yaml.SafeLoader):
    """A YAML loader for CloudFormation's short forms."""


def _short_form(loader: yaml.Loader, tag: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
        if tag == "GetAtt":
            value = str(value).split(".", 1)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    return {tag if tag in _PLAIN else f"Fn::{tag}": value}


_Loader.add_multi_constructor("!", _short_form)


def load() -> dict[str, Any]:
    """Return the parsed template."""
    path = _BESIDE if _BESIDE.is_file() else _CHECKOUT
    loaded: dict[str, Any] = yaml.load(path.read_text("utf-8"), _Loader)  # noqa: S506 - a subclass of the safe loader
    return loaded


def filled(template: Mapping[str, Any], code: Mapping[str, str]) -> str:
    """Return the template as JSON, with the code of each function (`frontend`, …) at an `s3://` address."""
    resources = dict(template["Resources"])
    for function, address in code.items():
        name = f"{function.capitalize()}Function"
        bucket, _, key = address.removeprefix("s3://").partition("/")
        properties = {**resources[name]["Properties"], "CodeUri": {"Bucket": bucket, "Key": key}}
        # Drop the metadata that only SAM's build needs.
        resources[name] = {"Type": resources[name]["Type"], "Properties": properties}
    return json.dumps({**template, "Resources": resources}, separators=(",", ":"))
