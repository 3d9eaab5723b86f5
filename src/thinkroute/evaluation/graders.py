"""Graders: an answer and a reference in, a quality in [0, 1] out. Pure; none of them calls a model.

`GRADERS` is the table of names a question file may use. A grader of one's own is any callable with the same
signature, given to `collect` directly or named `package.module:function`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from importlib import import_module
from typing import Final, TypeAlias

from thinkroute.errors import ConfigError, DataError
from thinkroute.evaluation.splits import normalise

Grader: TypeAlias = Callable[[str, str], float]
"""Answer text, reference → quality in [0, 1]."""

_NUMBER: Final = re.compile(r"[-+−]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s*/\s*\d+(?:\.\d+)?)?")
_BOXED: Final = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_LATEX_FRACTION: Final = re.compile(r"\\d?frac\s*\{\s*(-?\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_FINAL_MARK: Final = re.compile(r"####\s*(.+)")
_STATED_OPTION: Final = re.compile(
    r"(?:answer|option|choice)(?:\s+is)?\s*:?\s*\(?\**([A-J])\b(?!')", re.IGNORECASE
)
_LONE_OPTION: Final = re.compile(r"^\W*([A-J])(?:\W|$)")
_ANY_OPTION: Final = re.compile(r"\(([A-J])\)|\b([A-J])[.):]")


def exact(answer: str, reference: str) -> float:
    """Equal but for case, white space and punctuation."""
    return float(normalise(answer) == normalise(reference))


def contains(answer: str, reference: str) -> float:
    """The reference occurs in the answer as whole words, in order."""
    return float(f" {normalise(reference)} " in f" {normalise(answer)} ")


def number(answer: str, reference: str) -> float:
    r"""The answer's final number equals the reference's.

    The final number is the one in the last `\boxed{}`, else after the last `####`, else the last in the text.
    Thousands separators are dropped; fractions are compared exactly, so 0.5 equals 1/2.

    Raises:
        DataError: the reference holds no number.
    """
    wanted = _final_number(reference)
    if wanted is None:
        raise DataError(f"grader number: the reference {reference!r} holds no number")
    return float(_final_number(answer) == wanted)


def multiple_choice(answer: str, reference: str) -> float:
    """The letter chosen equals the reference's letter (A to J).

    The letter chosen is the last one stated as the answer ("the answer is B"), else a letter that starts the text,
    else the last one written as an option, "(B)" or "B.".

    Raises:
        DataError: the reference is not a letter A to J.
    """
    wanted = _LONE_OPTION.match(reference)
    if wanted is None:
        raise DataError(f"grader multiple_choice: the reference {reference!r} is not a letter A to J")
    return float(_chosen_letter(answer) == wanted.group(1))


GRADERS: Final[Mapping[str, Grader]] = {
    "exact": exact,
    "contains": contains,
    "number": number,
    "multiple_choice": multiple_choice,
}
"""Name → grader."""


def grader_named(name: str) -> Grader:
    """A grader of the table, or one named `package.module:function`.

    Raises:
        ConfigError: there is no such grader.
    """
    if name in GRADERS:
        return GRADERS[name]
    module, colon, function = name.partition(":")
    if not colon:
        raise ConfigError(
            f"unknown grader {name!r}: use one of {', '.join(GRADERS)}, or package.module:function"
        )
    try:
        found: Grader = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"grader {name!r} cannot be imported: {error}") from error
    return found


def _final_number(text: str) -> Fraction | None:
    text = _LATEX_FRACTION.sub(r"\1/\2", text)
    for pattern in (_BOXED, _FINAL_MARK):
        marked = pattern.findall(text)
        if marked:
            text = marked[-1]
            break
    found = _NUMBER.findall(text)
    return _fraction(found[-1]) if found else None


def _fraction(text: str) -> Fraction | None:
    above, _, below = text.replace(",", "").replace("−", "-").replace(" ", "").partition("/")
    denominator = Fraction(below or "1")
    return Fraction(above) / denominator if denominator else None


def _chosen_letter(text: str) -> str | None:
    if stated := _STATED_OPTION.findall(text):
        return str(stated[-1]).upper()
    if lone := _LONE_OPTION.match(text):
        return lone.group(1)
    written = _ANY_OPTION.findall(text)
    return str(written[-1][0] or written[-1][1]) if written else None
