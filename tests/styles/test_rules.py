"""How styles and collections are named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.platform.errors import BadRequest
from horde.styles.rules import Reference, clean_models, clean_name, full_name, parse_reference

NAMES = st.text(max_size=100) | st.text(":#a/", max_size=5)
USERNAMES = st.text(max_size=30) | st.lists(st.sampled_from(["style", "collection", "::", "#7", "a"])).map(
    "".join
)


@given(NAMES, USERNAMES, st.integers(0, 2**31), st.sampled_from(["style", "collection"]))
def test_full_names_name_what_they_say(given_name: str, username: str, number: int, thing: str) -> None:
    try:
        name = clean_name(given_name)
    except BadRequest:
        return
    alias = f"{username}#{number}"
    expected = Reference(name, thing, number)  # type: ignore[arg-type]
    assert parse_reference(full_name(alias, thing, name)) == expected  # type: ignore[arg-type]
    assert parse_reference(f"{thing}::{alias}::{name}") == expected
    assert parse_reference(f"{number}::{thing}::{name}") == expected
    found = parse_reference(f"{alias}::{name}")
    assert found == Reference(name, found.thing if found else None, number)
    assert found.thing is None or username.startswith(f"{found.thing}::")
    assert parse_reference(f"{thing}::{name}") == Reference(name, thing)  # type: ignore[arg-type]
    assert parse_reference(name) == Reference(name)


@given(st.text())
def test_anything_can_be_looked_up(given_name: str) -> None:
    found = parse_reference(given_name)
    assert found is None or found.name in given_name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "style::",
        "::",
        "::a",
        "::style::a",
        "a::b",
        "#::b",
        "a#-1::b",
        "style::style::b",
        "1::2::b",
        "a#9" + "9" * 20 + "::b",
    ],
)
def test_what_names_nothing(name: str) -> None:
    assert parse_reference(name) is None


@given(st.lists(st.text(min_size=1, max_size=150), min_size=1, max_size=5))
def test_models_that_are_sent_back_stay(models: list[str]) -> None:
    try:
        kept = clean_models(models)
    except BadRequest:
        return
    assert clean_models(kept) == kept
