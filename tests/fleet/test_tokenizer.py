"""The tokenizer: lossless, one token a word, and the same for Transformers and for the engine."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from thinkroute.engines.embedded.prompt import EMPTY_THINKING, last_turn, render
from thinkroute.engines.embedded.vocabulary import Vocabulary
from thinkroute.fleet.shipped import directory
from thinkroute.fleet.tasks import FAMILIES, LEVELS, generate
from thinkroute.fleet.tokenizer import build_tokenizer, token_id

TOKENIZER = build_tokenizer()


@given(st.text())
def test_decoding_gives_back_any_text_exactly(text: str) -> None:
    ids = TOKENIZER.encode(text).ids
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == text


@given(st.text())
def test_the_engines_own_table_of_token_bytes_says_the_same(text: str) -> None:
    vocabulary = Vocabulary(directory("student") / "tokenizer.json")
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_every_word_and_digit_of_the_language_is_one_token() -> None:
    rng = Random(0)
    for family in FAMILIES:
        for level in LEVELS:
            problem = generate(rng, family, level, "train")
            prompt = render(last_turn([{"role": "user", "content": f"{problem.question} /no_think"}]))
            text = f"{prompt}<think>\n{problem.trace}\n</think>\n\n{problem.sentence}<|im_end|>"
            pieces = [
                TOKENIZER.decode([index], skip_special_tokens=False) for index in TOKENIZER.encode(text).ids
            ]
            assert "".join(pieces) == text
            assert {piece for piece in pieces if len(piece) == 1} <= set(".,:\n")


def test_no_two_tokens_share_an_id() -> None:
    assert sorted(TOKENIZER.get_vocab().values()) == list(range(TOKENIZER.get_vocab_size()))


def test_special_tokens_are_single_and_the_mode_is_decided_by_one_token() -> None:
    thinking = TOKENIZER.encode("<think>\nfirst").tokens
    empty = TOKENIZER.encode(EMPTY_THINKING).tokens
    assert thinking[0] == empty[0] == "<think>"
    assert thinking[1] != empty[1]
    assert len(empty) == 4
    for token in ("<|im_start|>", "<|im_end|>", "<think>", "</think>"):
        assert TOKENIZER.encode(token).ids == [token_id(TOKENIZER, token)]


def test_answers_are_full_sentences_of_at_least_twelve_tokens() -> None:
    rng = Random(1)
    for family in FAMILIES:
        assert len(TOKENIZER.encode(generate(rng, family, 1, "train").sentence).ids) >= 12


def test_the_shipped_tokenizer_files_are_what_the_code_builds() -> None:
    for member in ("student", "teacher"):
        shipped: Path = directory(member) / "tokenizer.json"
        assert json.loads(shipped.read_text()) == json.loads(TOKENIZER.to_str())
