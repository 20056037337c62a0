"""What can be wrong with a query, a page token or a search attribute. Messages are the ones clients know."""

from __future__ import annotations

MALFORMED = "malformed SQL query"
NOT_SUPPORTED = "operation is not supported"
INVALID_EXPRESSION = "invalid expression"
UNKNOWN_ATTRIBUTE = "invalid search attribute"


class InvalidQuery(ValueError):
    """The list filter can't be served; `message` is the text for INVALID_ARGUMENT."""

    def __init__(self, detail: str) -> None:
        self.message = f"invalid query: {detail}"
        super().__init__(self.message)


class InvalidPageToken(InvalidQuery):
    """The page token is not one that we handed out."""

    def __init__(self) -> None:
        super().__init__("the page token is not valid")
        self.message = "invalid page token"


class InvalidSearchAttributes(ValueError):
    """The search attributes of a request can't be stored; `message` is the text for INVALID_ARGUMENT."""

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)
