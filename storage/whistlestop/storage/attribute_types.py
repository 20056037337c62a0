"""The types of search attributes; the list filter, which knows what they mean, is much more to import."""

from __future__ import annotations

import enum


class AttributeType(enum.IntEnum):
    """Numbers are those of temporal.api.enums.v1.IndexedValueType."""

    Text = 1
    Keyword = 2
    Int = 3
    Double = 4
    Bool = 5
    Datetime = 6
    KeywordList = 7
