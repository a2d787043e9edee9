"""Filters at work, and the operator's words."""

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.moderation.filters import (
    BUDGET_SECONDS,
    Filter,
    FilterSet,
    InvalidFilter,
    TookTooLong,
    check_filter,
    compile_regex,
    join,
)
from horde.moderation.words import Words, WordsError, load_words
from horde.settings import ROOT

PLAIN = """
negative = "rain, fog"
emoji = ["\N{UMBRELLA}", "\N{CLOUD}"]
counted_tag_models = ["Tags"]
[[replace]]
words = ["pup", "young dog"]
replacement = "dog"
[[replace]]
words = ["pups"]
replacement = "dogs"
"""
SLOW = r"(?:a|aa)+$"
SLOW_PROMPT = "a" * 300 + " b"
LONGEST = 5 * BUDGET_SECONDS
"""Seconds of processor time."""


def words_of(folder: Path, content: str) -> Words:
    path = folder / "words.toml"
    path.write_text(content)
    return load_words(path)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Words:
    return words_of(tmp_path_factory.mktemp("words"), PLAIN)


def filters(*each: tuple[int, str] | tuple[int, str, str]) -> FilterSet:
    return FilterSet(
        Filter(number, filter_type, compile_regex(expression), *(replacement or [""]))
        for number, (filter_type, expression, *replacement) in enumerate(each, 1)
    )


class TestScan:
    @pytest.mark.parametrize(
        ("prompt", "score", "matches", "youth"),
        [
            ("a tower", 0, (), False),
            ("a ROSE", 1, ("ROSE",), True),
            ("a lily", 1, ("lily",), False),
            ("a lily and a rose", 1, ("rose",), True),
            ("a wild tower", 1, ("wild",), False),
            ("a wild r.o.s.e", 2, ("rose", "wild"), True),
            ("a wild lily", 2, ("lily", "wild"), False),
            ("a \N{UMBRELLA} and a \N{CLOUD}", 1, ("\N{UMBRELLA}", "\N{CLOUD}"), True),
            ("a wild lily \N{CLOUD}", 2, ("\N{CLOUD}", "wild"), True),
            ("a rose \N{CLOUD}", 1, ("rose", "\N{CLOUD}"), True),
            ("a tower ### wild rose \N{CLOUD}", 0, (), False),
            ("a pup", 0, (), True),
        ],
    )
    def test_scores(
        self, words: Words, prompt: str, score: int, matches: tuple[str, ...], youth: bool
    ) -> None:
        found = filters((11, "lily"), (10, "rose|tulip"), (20, "wild"), (20, "dark"), (15, "tower"))
        suspicion = found.scan(prompt, words)
        assert (suspicion.score, suspicion.matches, suspicion.youth) == (score, matches, youth)
        assert suspicion.suspicious == (score == 2)
        assert not suspicion.undecided

    @pytest.mark.parametrize(("only", "score"), [(10, 1), (11, 0), (20, 1)])
    def test_one_type_alone(self, words: Words, only: int, score: int) -> None:
        found = filters((10, "rose"), (11, "lily"), (20, "wild"))
        assert found.scan("a wild rose", words, only=only).score == score

    def test_symbols_belong_to_type_10(self, words: Words) -> None:
        assert filters().scan("\N{CLOUD}", words, only=10).score == 1
        assert filters().scan("\N{CLOUD}", words, only=11).score == 0

    @given(positive=st.text(), negative=st.text())
    def test_the_negative_part_is_never_scanned(self, words: Words, positive: str, negative: str) -> None:
        found = filters((10, "a"), (20, "[0-9]"))
        if "###" not in f"{positive}##":
            assert found.scan(f"{positive}###{negative}", words) == found.scan(positive, words)

    @given(prompt=st.text())
    def test_scores_are_0_to_2(self, words: Words, prompt: str) -> None:
        suspicion = filters((10, "a"), (11, "e"), (20, "[0-9]")).scan(prompt, words)
        assert suspicion.score in (0, 1, 2)
        assert suspicion.score <= len(suspicion.matches)

    def test_a_filter_that_needs_for_ever_is_a_match_that_proves_nothing(self, words: Words) -> None:
        found = filters((10, "rose"), (10, SLOW), (20, "b"))
        started = time.process_time()
        suspicion = found.scan(SLOW_PROMPT, words)
        assert time.process_time() - started < LONGEST
        assert (suspicion.score, suspicion.too_slow) == (2, (2,))
        assert suspicion.undecided
        assert suspicion.youth
        assert found.scan("a rose b", words).matches == ("rose", "b")

    def test_many_slow_filters_share_one_budget(self, words: Words) -> None:
        found = filters(*[(10, r"(?:a|aa){1,11}$")] * 100)
        started = time.process_time()
        assert found.scan(SLOW_PROMPT, words).undecided
        assert time.process_time() - started < LONGEST


class TestReplacement:
    def test_filters_apply_in_their_order(self) -> None:
        found = filters(
            (10, "red", "blue"), (10, "blue (rose)", r"\1 bush"), (11, "bush", "no"), (10, "very")
        )
        assert found.replaced("a very Red rose") == "a rose bush"

    def test_nothing_may_be_left(self) -> None:
        assert filters((10, ".*", "")).replaced("a rose") == ""

    def test_time_is_bounded(self) -> None:
        started = time.process_time()
        with pytest.raises(TookTooLong):
            filters((10, SLOW, "x")).replaced(SLOW_PROMPT)
        assert time.process_time() - started < LONGEST

    def test_length_is_bounded(self) -> None:
        with pytest.raises(TookTooLong):
            filters((10, "a", "a" * 255), (10, "a", "a" * 255)).replaced("a" * 100)


class TestEntry:
    @pytest.mark.parametrize(
        "expression", ["rose", r"\b(a|b)\1\b", "(?i)rose", "(?s:a.b)", "ros(?=e)", "灯台"]
    )
    def test_usable(self, expression: str) -> None:
        check_filter(expression, "")

    @pytest.mark.parametrize(
        "expression",
        [
            "",
            "(",
            "a)(b",
            "*",
            "[a",
            "a\\",
            "a*",
            "|a",
            "a|",
            "^",
            "(?s)a",
            "(?x) a #",
            "(" * 3000 + ")" * 3000,
        ],
    )
    def test_not_usable(self, expression: str) -> None:
        with pytest.raises(InvalidFilter):
            check_filter(expression, "")

    @pytest.mark.parametrize("replacement", [r"\2", r"\g<name>", "\\"])
    def test_replacements_that_cannot_be_used(self, replacement: str) -> None:
        check_filter("(rose)", r"\1")
        with pytest.raises(InvalidFilter):
            check_filter("(rose)", replacement)

    @given(expression=st.text(st.sampled_from("ab(|)[]*+?\\.^${}1,:=!<>P#")), replacement=st.text())
    def test_whatever_is_let_in_works(self, words: Words, expression: str, replacement: str) -> None:
        try:
            check_filter(expression, replacement)
        except InvalidFilter:
            return
        found = filters((10, expression, replacement), (20, join([expression, "zz"])))
        found.scan("aab ab11 zz", words)
        try:
            found.replaced("aab ab11 zz")
        except TookTooLong:
            return


class TestWords:
    def test_they_are_replaced_in_their_places(self, words: Words) -> None:
        assert words.replaced("a Pup 2pups and a young dog in a puppet show") == (
            "a dog 2dogs and a dog in a puppet show"
        )

    @pytest.mark.parametrize(
        ("models", "counted"),
        [((), True), (("Tags",), False), (("Tags", "Other"), True), (("Other",), True)],
    )
    def test_a_model_of_tags_keeps_counted_words(
        self, words: Words, models: tuple[str, ...], counted: bool
    ) -> None:
        assert words.occur_in("2pups", models) == counted
        assert words.replaced("2pups pups", models) == ("2dogs dogs" if counted else "2pups dogs")

    def test_profane_words_are_whole_ones(self, tmp_path: Path) -> None:
        strict = words_of(tmp_path, 'profane = ["drat", "oh blast"]' + PLAIN)
        for name in ("Drat", "my drat GPU", "2drat3", "oh blast"):
            assert strict.profane(name)
        for name in ("hydrate", "drats", "blast", "oh, dra t"):
            assert not strict.profane(name)

    def test_no_words_match_nothing(self, tmp_path: Path) -> None:
        none = words_of(tmp_path, PLAIN.split("[[replace]]")[0])
        assert not none.occur_in("a pup")
        assert none.replaced("a pup") == "a pup"
        assert not none.profane("a pup")

    def test_those_that_come_with_the_program_can_be_used(self) -> None:
        shipped = load_words(ROOT / "config" / "moderation.toml")
        assert shipped.replaced("two kids and 1girl") == "two adults and 1woman"
        family = "\N{MAN}\N{ZERO WIDTH JOINER}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}"
        assert shipped.emoji_in(f"{family} \N{BABY}\N{EMOJI MODIFIER FITZPATRICK TYPE-4}") == [
            "\N{BABY}",
            "\N{GIRL}",
        ]

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ('"pup"', '"pup!"'),
            ('"pup"', '""'),
            ('replacement = "dogs"', 'replacement = "big pups"'),
            ('replacement = "dogs"', ""),
            ('"rain, fog"', '"rain ### fog"'),
            ('"rain, fog"', "1"),
            ("negative", "unknown = 1\nnegative"),
            ("negative", "negative ="),
        ],
    )
    def test_a_broken_file_is_refused(self, tmp_path: Path, old: str, new: str) -> None:
        with pytest.raises(WordsError, match=r"words\.toml"):
            words_of(tmp_path, PLAIN.replace(old, new))

    def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(WordsError, match="missing"):
            load_words(tmp_path / "missing.toml")
