"""Text to token ids and back, held equal to the tokenizer library on every shipped tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from thinkroute.engines.embedded.prompt import EMPTY_THINKING, last_turn, render
from thinkroute.engines.embedded.vocabulary import Vocabulary
from thinkroute.fleet import shipped
from thinkroute.fleet.bench import draw_prompts

PATHS = [shipped.directory(name) / "tokenizer.json" for name in shipped.names()]
VOCABULARY, LIBRARY = Vocabulary(PATHS[0]), Tokenizer.from_file(str(PATHS[0]))
PIECES = [
    "first", " first", "First", "4", " 4", "44", "\n", "\n\n\n", " ", "  ", ".", "/think", " /no_think", "a_b", "é", "🎉",
    "\t", "\r\n", "<", "<think", "<think>", "</think>", "<|im_start|>", "<|im_end|>", "|>", "<call>", "\u00a0", "x" * 40,
]  # fmt: skip
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(PIECES), max_size=15).map("".join))


@given(TEXTS)
def test_any_text_has_the_ids_the_library_gives_it(text: str) -> None:
    assert VOCABULARY.encode(text) == LIBRARY.encode(text, add_special_tokens=False).ids


@given(TEXTS)
def test_decoding_undoes_encoding(text: str) -> None:
    assert VOCABULARY.decode(VOCABULARY.encode(text)) == text


@pytest.mark.parametrize("path", PATHS, ids=shipped.names())
def test_prompts_have_the_ids_the_library_gives_them(path: Path) -> None:
    vocabulary, library = Vocabulary(path), Tokenizer.from_file(str(path))
    for question in draw_prompts(100, seed=2):
        prompt = render(last_turn([{"role": "user", "content": question}])) + EMPTY_THINKING
        assert vocabulary.encode(prompt) == library.encode(prompt, add_special_tokens=False).ids


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Lowercase"}},
        {
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {
                        "type": "Split",
                        "pattern": {"Regex": r" ?\p{L}+"},
                        "behavior": "Isolated",
                        "invert": False,
                    },
                    {
                        "type": "ByteLevel",
                        "add_prefix_space": False,
                        "trim_offsets": True,
                        "use_regex": False,
                    },
                ],
            }
        },
        {
            "pre_tokenizer": {
                "type": "ByteLevel",
                "add_prefix_space": False,
                "trim_offsets": True,
                "use_regex": True,
            }
        },
    ],
)
def test_a_tokenizer_that_cuts_texts_otherwise_is_asked_for_whole_texts(
    change: dict[str, object], tmp_path: Path
) -> None:
    description = json.loads(PATHS[0].read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**description, **change}))
    vocabulary = Vocabulary(tmp_path / "tokenizer.json")
    library = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in ("First plus 4.", "take it's 12 a\n\nb", *draw_prompts(5, seed=0)):
        assert vocabulary.encode(text) == library.encode(text, add_special_tokens=False).ids


def test_what_is_remembered_of_texts_is_bounded() -> None:
    vocabulary = Vocabulary(PATHS[0])
    for number in range(6000):
        word = "".join(chr(ord("a") + int(digit)) for digit in str(number))
        assert vocabulary.encode(word) == LIBRARY.encode(word, add_special_tokens=False).ids
    assert len(vocabulary._ids_of_pieces) <= 4096  # pyright: ignore[reportPrivateUsage]
