"""Rules about prompts: what is read of them, and when an offender may ask again."""

import unicodedata
from collections.abc import Iterable, Iterator
from itertools import groupby

import regex

SEPARATOR = "###"
SHORTEST_SPELLED_WORD = 3
"""Single characters in a row, from which on they are taken for one word."""

_MINUTE = 60
TIMEOUT_STEP = 3 * _MINUTE
LONGEST_SERVICE_TIMEOUT = 5 * _MINUTE
SUSPICION_SECONDS = 24 * 60 * _MINUTE
SERVICE_SUSPICION_SECONDS = PROXY_SUSPICION_SECONDS = 60 * _MINUTE

_BRACKETS = regex.compile(r"\(|\)|:[0-9]+\.[0-9]+\)")
_UNSEEN = regex.compile(r"\p{Cf}+|(?<![\p{L}\p{N}\p{M}])\p{M}+")
_BETWEEN_WORDS = regex.compile(r"[^\p{L}\p{N}\p{M}]+")
_MARKS = regex.compile(r"\p{M}+")
_LATIN = regex.compile(r"[A-Za-z]")

_LOOK_ALIKES = str.maketrans(
    # Latin letters that Unicode does not take apart, and small capitals.
    dict(zip("øØđĐðÐłŁħĦıŧŦŋŊĸƒɑɡɩɫ", "oOdDdDlLhHitTnNkfagil", strict=True))
    | dict(zip("ᴀʙᴄᴅᴇꜰɢʜɪᴊᴋʟᴍɴᴏᴘʀꜱᴛᴜᴠᴡʏᴢ", "abcdefghijklmnoprstuvwyz", strict=True))
    | {"ß": "ss", "ẞ": "SS", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "þ": "th", "Þ": "TH"}
    # Cyrillic and Greek letters that look like Latin ones.
    | dict(zip("аеорсухѕіјкԁһԛԝѵ", "aeopcyxsijkdhqwv", strict=True))
    | dict(zip("АВЕКМНОРСТУХЅІЈ", "ABEKMHOPCTYXSIJ", strict=True))  # noqa: RUF001
    | dict(zip("αικνορτυχ", "aikvoptux", strict=True))
    | dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABEZHIKMNOPTYX", strict=True))  # noqa: RUF001
)


def split_prompt(prompt: str) -> tuple[str, str]:
    """The positive and the negative part of `positive###negative`; what stands after the first `###` is the
    negative one, and nobody scans it."""
    positive, _, negative = prompt.partition(SEPARATOR)
    return positive, negative


def join_prompt(positive: str, *negative: str) -> str:
    """One prompt of its parts; negative parts that are empty leave no comma behind."""
    return SEPARATOR.join(filter(None, (positive, ", ".join(filter(None, map(str.strip, negative))))))


def normalise(text: str) -> str:
    """`text` as filters read it: words with single spaces between them, however they were disguised.

    Attention weights go (`(text:1.3)` is `text`), punctuation and underscores are spaces, invisible
    characters nothing; three or more single characters in a row are one word; and a word is written in ASCII,
    without accents, if it has a Latin letter or could be read as if it had only such. Words of other scripts
    stay, so that filters can be about them. Normalising again changes nothing.
    """
    if not text.isascii():
        text = _UNSEEN.sub("", unicodedata.normalize("NFKD", text), concurrent=False)
    words = _BETWEEN_WORDS.sub(" ", _unweighted(text), concurrent=False).split()
    return " ".join(map(_in_ascii, _spelled_out(words)))


def _unweighted(text: str) -> str:
    """Each bracketed group with a weight becomes its content; other brackets stay."""
    pieces: list[str] = []
    opened: list[int] = []
    end = 0
    for token in _BRACKETS.finditer(text, concurrent=False):
        pieces += text[end : token.start()], token[0]
        end = token.end()
        if token[0] == "(":
            opened.append(len(pieces) - 1)
        elif opened:
            opening = opened.pop()
            if token[0] != ")":
                pieces[opening] = pieces[-1] = ""
    return "".join((*pieces, text[end:]))


def _spelled_out(words: Iterable[str]) -> Iterator[str]:
    for single, run in groupby(words, _is_single):
        letters = list(run)
        if single and len(letters) >= SHORTEST_SPELLED_WORD:
            yield "".join(letters)
        else:
            yield from letters


def _is_single(word: str) -> bool:
    """Whether `word` is one character, perhaps with accents."""
    return all(unicodedata.category(character)[0] == "M" for character in word[1:])


def _in_ascii(word: str) -> str:
    if word.isascii():
        return word
    bare = _MARKS.sub("", word, concurrent=False).translate(_LOOK_ALIKES)
    disguised = bare.isascii() or _LATIN.search(word, concurrent=False)
    return unicodedata.normalize("NFC", bare if disguised else word)


def timeout_for(offences: int, *, service: bool) -> int:
    """Seconds without access after the `offences`-th refused prompt: 3 minutes, then 9, 15, 21 ...

    Known services, which ask for many people, never wait longer than 5 minutes.
    """
    seconds = (2 * offences - 1) * TIMEOUT_STEP
    return min(seconds, LONGEST_SERVICE_TIMEOUT) if service else seconds
