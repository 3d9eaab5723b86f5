"""Our WordPiece gives the numbers of the reference tokenizer, on every kind of text."""

from functools import cache
from typing import Any, cast

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from thinkroute.signals.hashed_ngrams import HashedNgramsSettings, read
from thinkroute.signals.wordpiece import WordPiece, splits_alike

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = [
    "the",
    "cat",
    "##s",
    "un",
    "##aff",
    "##able",
    "naive",
    "über",
    "σ",
    "語",
    "x",
    "##y",
    "2",
    "##3",
    "$",
    "-",
]
VOCABULARY = [*PIECES, *WORDS, *(chr(code) for code in range(97, 123) if chr(code) not in WORDS)]


@cache
def reference() -> Any:
    from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer

    return BertWordPieceTokenizer(vocab={piece: number for number, piece in enumerate(VOCABULARY)})


def numbers(text: str) -> list[int]:
    return WordPiece(VOCABULARY).encode(text.encode("utf-8", "replace"))


def expected(text: str) -> list[int]:
    return cast("list[int]", reference().encode(text, add_special_tokens=False).ids)


long_assigned = st.one_of(
    st.characters(max_codepoint=0x4FF, exclude_categories=("C",)),
    st.characters(min_codepoint=0x3000, max_codepoint=0x30FF, exclude_categories=("C",)),
    st.characters(min_codepoint=0x4E00, max_codepoint=0x9FA5),
)
"""Latin, Greek, Cyrillic, Japanese, Chinese: the two sides' tables of Unicode may be of other years elsewhere."""


@given(st.text(long_assigned))
@settings(max_examples=400)
def test_any_text_is_split_as_by_the_reference(text: str) -> None:
    assume(not any(piece in text for piece in PIECES))
    assert numbers(text) == expected(text)


@pytest.mark.parametrize("piece", PIECES)
def test_a_special_piece_that_somebody_typed_is_plain_text(piece: str) -> None:
    """The reference would let a prompt speak as the tokenizer; here `[CLS]` typed is two brackets and a word."""
    unknown = VOCABULARY.index("[UNK]")
    inside = piece.strip("[]").lower()
    assert numbers(piece) == [unknown, *numbers(inside), unknown]


@given(st.text(st.sampled_from("the cats unaffable x23$-. \t\n'")))
@settings(max_examples=200)
def test_words_of_the_vocabulary_are_split_as_by_the_reference(text: str) -> None:
    assert numbers(text) == expected(text)


def test_accents_case_and_control_characters_are_folded_away() -> None:
    assert numbers("NaÏve\x00 \u200b") == expected("naive") == [VOCABULARY.index("naive")]
    assert numbers("a\x0cb\x7f") == expected("a\x0cb\x7f")


def test_cjk_characters_stand_alone() -> None:
    assert numbers("x語x") == [VOCABULARY.index(word) for word in ("x", "語", "x")]


def test_a_word_without_a_first_piece_or_of_over_a_hundred_characters_is_unknown() -> None:
    unknown = [VOCABULARY.index("[UNK]")]
    assert numbers("9") == unknown
    assert numbers("a" * 101) == expected("a" * 101) == unknown


def test_text_that_spells_a_special_token_is_text() -> None:
    assert VOCABULARY.index("[SEP]") not in numbers("[SEP]")


def test_broken_utf8_and_nothing_give_no_error() -> None:
    wordpiece = WordPiece(VOCABULARY)
    assert wordpiece.encode(b"") == []
    assert wordpiece.encode(b"x \xff\xfe\xe8") == [VOCABULARY.index("x")]


def test_words_remembered_do_not_change_what_is_read() -> None:
    wordpiece = WordPiece(VOCABULARY)
    assert (
        wordpiece.encode(b"unaffable cats")
        == wordpiece.encode(b"unaffable cats")
        == numbers("unaffable cats")
    )


@given(st.text(alphabet="aby1_-. \n\t\r\x00\x0b\x1c\x7fÉ語", max_size=40).map(str.encode))
def test_tokens_of_the_hashed_encoder_need_no_second_splitting_where_both_split_alike(raw: bytes) -> None:
    assume(splits_alike(raw))
    wordpiece = WordPiece(VOCABULARY)
    tokens = read(raw, HashedNgramsSettings()).tokens
    assert wordpiece.of_tokens(tokens).tolist() == wordpiece.encode(raw)


def test_underscores_are_marks_and_control_characters_that_join_words_are_not_alike() -> None:
    assert splits_alike(b"the_cat\tx")
    assert WordPiece(VOCABULARY).of_tokens([b"the_cat"]).tolist() == numbers("the_cat")
    assert not splits_alike(b"the\x00cat")
    assert not splits_alike("é".encode())


def test_long_words_are_read_and_not_remembered() -> None:
    wordpiece = WordPiece(VOCABULARY)
    word = b"x" + b"y" * 70
    assert wordpiece.encode(word) == wordpiece.encode(word) == numbers(word.decode())
