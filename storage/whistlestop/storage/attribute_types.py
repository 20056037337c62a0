"""The types of search attributes, apart from the list filter because that is expensive to import."""

from __future__ import annotations

import enum


class AttributeType(enum.IntEnum):
    """The type of a search attribute, numbered as temporal.api.enums.v1.IndexedValueType."""

    Text = 1
    Keyword = 2
    Int = 3
    Double = 4
    Bool = 5
    Datetime = 6
    KeywordList = 7
