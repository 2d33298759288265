"""docs/launcher.md is what the parser says."""

from __future__ import annotations

from k8s import reference


def test_the_page_is_printed_from_the_parser() -> None:
    """`python -m k8s.reference` would change nothing, and every command has its keys in JSON documented."""
    text = reference.PAGE.read_text(encoding="utf-8")
    assert reference.page(text) == text
    assert reference.by_hand(text)
