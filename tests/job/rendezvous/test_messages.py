"""Which messages are accepted."""

from __future__ import annotations

from itertools import product
from typing import Any

import msgspec
import pytest

from job.rendezvous.messages import Reply, Request, decode, encode

REQUEST = Request("r", "u", "5e77", "30de1", 3, 1, "s", 1, "a", "g", "10.0.0.1:2222", "training", 0)
REPLY = Reply("g", 3, (), ("a:1", "[::1]:2"))


def test_a_message_arrives_as_it_was_sent() -> None:
    """With all its fields."""
    assert decode(encode(REQUEST), Request) == REQUEST
    for reply in (REPLY, Reply("g", 0, (0, 1), ())):
        assert decode(encode(reply), Reply) == reply


@pytest.mark.parametrize(
    "text",
    [b"", b"\xff\x00", b"null", b"[]", b"{}", b"[" * 4000, encode(REQUEST)[:-1], encode(REQUEST)[:-1] + b', "x": 1}'],
)
def test_another_text_is_an_error(text: bytes) -> None:
    """It is not JSON, or lacks a field, or has one too many."""
    for kind in (Request, Reply):
        with pytest.raises(ValueError):  # noqa: PT011 - the sentence is the library's
            decode(text, kind)


@pytest.mark.parametrize(
    ("message", "field", "value"),
    [
        *((REQUEST, "attempt", other) for other in (1, None, ["a"])),
        *((REQUEST, "phase", text) for text in ("two words", "line\n", "\x1b[2J", "é", "x" * 301)),
        *((REQUEST, *each) for each in product(("rank", "restarts"), (-1, 2**31, 0.5, "1", True))),
        *((REPLY, *each) for each in (("missing", [0.5]), ("round_id", "g g"))),
        *((REPLY, "addresses", ["a:1", address]) for address in ("b", ":1", "b:", "b:x", "b :1", "b:1\n")),
    ],
)
def test_another_value_is_an_error(message: Request | Reply, field: str, value: Any) -> None:
    """It is of another type, out of bounds, or could not stand in a log line; the error names the field."""
    text = msgspec.json.encode({**msgspec.structs.asdict(message), field: value})
    with pytest.raises(ValueError, match=rf"\$\.{field}"):
        decode(text, type(message))
