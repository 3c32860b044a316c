"""Counts the features that determine the number of tokens of a text: characters by script, words, changes.

Every count is one pass in C over the text, so that a million rows take seconds. Keys, hashes and files in
base64 or hexadecimal digits are counted separately, because no tokenizer has words for them.
"""

from __future__ import annotations

import re

# The counts, in the order of `counts`. Scripts are those of Unicode's blocks.
NAMES = (
    "english", "other_latin", "kjz", "words", "upper", "lower_upper", "upper_lower", "digits",
    "numbers", "thousands", "punctuation", "punctuation_word", "lines", "empty_lines", "tabs",
    "indents", "random", "hexadecimal", "accented", "latin_signs", "greek", "cyrillic",
    "cyrillic_extended", "hebrew", "armenian", "arabic", "arabic_extended", "devanagari", "bengali",
    "gurmukhi_gujarati", "tamil_oriya", "telugu_kannada", "malayalam_sinhala", "thai", "georgian",
    "khmer", "other", "vietnamese", "symbols", "kana", "han", "hangul", "emoji", "wide",
)  # fmt: skip
_ASCII_NAMES = NAMES.index("accented")
_NO_SCRIPTS = (0.0,) * (len(NAMES) - _ASCII_NAMES)


def _classes(default: str, *spans: tuple[str, int, int]) -> bytes:
    table = bytearray(default.encode() * 256)
    for letter, first, last in spans:
        table[first : last + 1] = letter.encode() * (last - first + 1)
    return bytes(table)


# One letter for each class of ASCII; `x` stands for any other character.
_CLASSES = _classes(
    "x", ("p", 0x21, 0x7E), ("a", 0x61, 0x7A), ("A", 0x41, 0x5A), ("0", 0x30, 0x39),
    (" ", 0x20, 0x20), ("\t", 0x09, 0x09), ("\n", 0x0A, 0x0D),
)  # fmt: skip
# The second and later bytes of a character in UTF-8: without them, one byte stands for each character.
_CONTINUED = bytes(range(0x80, 0xC0))
# The script of a character by the upper half of its code in UTF-16.
_BLOCKS = _classes(
    "o", ("_", 0x00, 0x00), ("l", 0x01, 0x02), ("g", 0x03, 0x03), ("c", 0x04, 0x04),
    ("w", 0x05, 0x05), ("r", 0x06, 0x08), ("d", 0x09, 0x09), ("A", 0x0A, 0x0A), ("B", 0x0B, 0x0B),
    ("C", 0x0C, 0x0C), ("D", 0x0D, 0x0D), ("t", 0x0E, 0x0E), ("G", 0x10, 0x10), ("K", 0x17, 0x17),
    ("v", 0x1E, 0x1E), ("g", 0x1F, 0x1F), ("s", 0x20, 0x2F), ("j", 0x30, 0x33), ("z", 0x34, 0x9F),
    ("k", 0xAC, 0xD7), ("e", 0xD8, 0xDF), ("z", 0xF9, 0xFA), ("f", 0xFE, 0xFF),
)  # fmt: skip
_LATIN_SIGN = b"\xc2"  # the first byte of U+0080 to U+00BF: quotes, degrees, spaces
_RUN = re.compile(r"[A-Za-z0-9+/=_-]{20,}")
# Digits of hashes, and of UUIDs, which have hyphens between them.
_HEXADECIMAL = re.compile(r"[0-9a-f-]+|[0-9A-F-]+")
MOST_HYPHENS = 0.2
LEAST_RANDOM = 32
# Letters of random text change case, or into digits, at 0.6 of the places; names in code at 0.25.
_CHANGES = (b"aA", b"Aa", b"a0", b"0a", b"A0", b"0A")
MOST_NAMES_CHANGE = 0.5
# In English prose, 0.22 of the words are one of these.
_COMMON = (" the ", " of ", " and ", " to ", " in ", " is ", " a ", " for ", " you ", " it ")
COMMON_SHARE = 0.15


def counts(text: str) -> tuple[float, ...]:
    """Return the counts of a text, in the order of `NAMES`."""
    random, hexadecimal = 0, 0

    def taken_out(found: re.Match[str]) -> str:
        nonlocal random, hexadecimal
        run = found.group()
        if _HEXADECIMAL.fullmatch(run) and run.count("-") <= MOST_HYPHENS * len(run):
            hexadecimal += len(run)
        elif len(run) >= LEAST_RANDOM and _is_random(run):
            random += len(run)
        else:
            return run
        return " "

    text = _RUN.sub(taken_out, text)
    content = text.encode("utf-8", "replace")
    count = content.translate(_CLASSES, _CONTINUED).count
    words = len(text.split())
    letters, digits = count(b"a"), count(b"0")
    common = sum(map(text.count, _COMMON)) if words else 0
    english = min(1.0, common / (COMMON_SHARE * words)) if words else 0.0
    # Letters that are rare in English and Romance languages and common in most others in Latin script.
    other = text.count("k") + text.count("j") + text.count("z")
    numbers = digits and (count(b" 0") + count(b"a0") + count(b"A0") + count(b"p0") + count(b"\n0"))
    found = (
        letters * english, letters * (1 - english), other * (1 - english), words, count(b"A"), count(b"aA"), count(b"Aa"),
        digits, numbers, count(b"000"), count(b"p"), count(b"pa") + count(b"pA"), count(b"\n"),
        count(b"\n\n"), count(b"\t"), count(b"  "), random, hexadecimal,
    )  # fmt: skip
    return found + (_NO_SCRIPTS if text.isascii() else _scripts(text, content))


def _is_random(run: str) -> bool:
    count = run.encode().translate(_CLASSES).count
    return sum(map(count, _CHANGES)) > MOST_NAMES_CHANGE * len(run)


def _scripts(text: str, content: bytes) -> tuple[float, ...]:
    blocks = text.encode("utf-16-be", "replace")[::2].translate(_BLOCKS)
    count = blocks.count
    signs = content.count(_LATIN_SIGN)
    # What is not ASCII, less what has a block of its own, are Latin letters and signs.
    latin = len(blocks) - count(b"_")
    latin = len(text) - len(text.encode("ascii", "ignore")) - latin + count(b"e") // 2
    lead = content.count
    hebrew, armenian = lead(b"\xd7"), count(b"w")
    cyrillic, arabic = lead(b"\xd2") + lead(b"\xd3"), lead(b"\xda") + lead(b"\xdb")
    bengali = lead(b"\xe0\xa6") + lead(b"\xe0\xa7")
    return (
        max(0, latin - signs) + count(b"l"), signs, count(b"g"), max(0, count(b"c") - cyrillic), cyrillic,
        hebrew, max(0, armenian - hebrew), max(0, count(b"r") - arabic), arabic,
        max(0, count(b"d") - bengali), bengali, count(b"A"), count(b"B"), count(b"C"), count(b"D"),
        count(b"t"), count(b"G"), count(b"K"), count(b"o"), count(b"v"), count(b"s"), count(b"j"),
        count(b"z"), count(b"k"), count(b"e") / 2, count(b"f"),
    )  # fmt: skip
