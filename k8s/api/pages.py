"""Lists, page by page: only the objects of one page are in memory at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from k8s.api.errors import ApiError
from k8s.api.objects import leave_out_unused
from k8s.api.watch import GONE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k8s.api.objects import Object
    from k8s.api.requests import Api

PAGE = 500


def read_pages(api: Api, path: str, selector: str, fields: str) -> Iterator[tuple[list[Object], str]]:
    """The objects of each page of a list, and the page's version.

    The API server may drop the list's version before the last page. The list then continues with the objects as they
    are at that time (Kubernetes' "inconsistent continuation"), or, without a token for this, gets all others at once.

    Args:
        api: the API server.
        path: of the list.
        selector: a label selector; empty for all.
        fields: a field selector; empty for all.

    Raises:
        ApiError: this user may not list the objects.
        LauncherError: 3, the server that answers is not an API server.
    """
    query = {"labelSelector": selector, "fieldSelector": fields, "limit": str(PAGE)}
    seen: set[str] = set()
    expired = False
    while True:
        try:
            page = api.json("GET", path, query)
        except ApiError as error:
            if error.code != GONE or "continue" not in query:
                raise
            if error.more and not expired:
                query["continue"], expired = error.more, True
            else:
                del query["continue"], query["limit"]
            continue
        try:
            items, version, token = page["items"] or [], *map(page["metadata"].get, ("resourceVersion", "continue"))
            if "limit" not in query:
                items = [item for item in items if item["metadata"].get("uid") not in seen]
            seen.update(item["metadata"].get("uid", "") for item in items)
            for item in items:
                leave_out_unused(item)
        except (KeyError, TypeError, AttributeError):
            raise api.not_kubernetes() from None
        del page  # frees the page before the next one is read
        yield items, version or ""
        if not token:
            return
        query["continue"], expired = token, False
