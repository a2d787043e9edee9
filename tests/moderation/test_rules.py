# ruff: noqa: RUF001 - look-alikes are what this is about
"""How prompts are read."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from horde.moderation.rules import join_prompt, normalise, split_prompt, timeout_for

TEXTS = st.text(st.characters()) | st.lists(
    st.sampled_from(
        [*"abc б и к е ё ß é が 가 각 가 ᄀ ᅡ ᆨ é Ⅷ １", " ", "(", ")", ":1.2)", ":1)", "_", "\u200d", "\u0301"]
    )
).map("".join)


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("(a lighthouse:1.25), ((dawn:0.8) sky:1.1)", "a lighthouse dawn sky"),
        ("light(hou:1.2)se", "lighthouse"),
        ("a (lighthouse:1) at noon:1.5)", "a lighthouse 1 at noon 1 5"),
        ("light-house_keeper's\ttea\n\n!", "light house keeper s tea"),
        ("a l-i.g_h t house", "alight house"),
        ("the s e a", "the sea"),
        ("s e a", "sea"),
        ("at 5 p", "at 5 p"),
        ("Crème brûlée, naïve Ångström", "Creme brulee naive Angstrom"),
        ("cre\u0301me ｆｕｌｌ 𝒻𝒶𝓃𝒸𝓎 Ⓑ ﬁne ²", "creme full fancy B fine 2"),
        ("Straße ŁÓDŹ søster đại dương", "Strasse LODZ soster dai duong"),
        ("s\u200be\u00ada l\ufe0fake", "sea lake"),
        ("ѕеа ѕeа ᴛᴏᴡᴇʀ χορα", "sea sea tower xopa"),
        ("s\u0435б", "seб"),
        ("", ""),
        ("?!###", ""),
    ],
)
def test_disguises_are_seen_through(text: str, read: str) -> None:
    assert normalise(text) == read


@pytest.mark.parametrize("text", ["мой дом", "灯台の絵が", "등대 그림", "प्रकाश स्तंभ", "μικρό σπίτι"])
def test_other_scripts_stay(text: str) -> None:
    assert normalise(text) == text


@given(TEXTS)
@example("ᄀ ᅡ ᆨ")
@example("и\u0301 к b")
@example("\ue000\u0301")
def test_normalising_again_changes_nothing(text: str) -> None:
    once = normalise(text)
    assert normalise(once) == once
    assert once == " ".join(once.split())
    assert not set(once) & set("_(),.:#!")


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_stays_ascii(text: str) -> None:
    assert normalise(text).isascii()


@pytest.mark.parametrize(
    "piece", ["(", ")", "(a:1.1)", ":1", "(:", ":1.", "a ", "#", "é\u0301", "\u0301", "\u200d"]
)
def test_long_texts_take_no_longer_than_their_length(piece: str) -> None:
    started = time.process_time()
    normalise(piece * (100_000 // len(piece)))
    assert time.process_time() - started < 2


@given(st.text(), st.text())
def test_a_prompt_is_split_at_the_first_separator(positive: str, negative: str) -> None:
    if "###" in f"{positive}##":
        return
    assert split_prompt(f"{positive}###{negative}") == (positive, negative)
    assert split_prompt(positive) == (positive, "")


def test_parts_are_joined() -> None:
    assert join_prompt("a", "b", " c ") == "a###b, c"
    assert join_prompt("a", "b", " ") == "a###b"
    assert join_prompt("a", "", "") == "a"


def test_timeouts_grow() -> None:
    assert [timeout_for(count, service=False) / 60 for count in (1, 2, 3, 4, 5)] == [3, 9, 15, 21, 27]
    assert [timeout_for(count, service=True) / 60 for count in (1, 2, 3)] == [3, 5, 5]
