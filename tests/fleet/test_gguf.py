"""GGUF export: the right tensors, and a vocabulary by which llama.cpp cuts text as the original tokenizer does."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from random import Random
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, pre_tokenizers

from thinkroute.cli.main import main
from thinkroute.engines.embedded.decoder import read_weights
from thinkroute.engines.embedded.prompt import EMPTY_THINKING, SWITCHES, last_turn, render
from thinkroute.errors import ConfigError
from thinkroute.fleet import shipped
from thinkroute.fleet.gguf import GgufToken, export_gguf, gguf_tokens
from thinkroute.fleet.tasks import FAMILIES, LEVELS, generate

QUESTIONS = 400
MEMBER = shipped.directory(shipped.names()[0])
TOKENIZER = Tokenizer.from_file(str(MEMBER / "tokenizer.json"))
SYMBOLS = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


class LlamaTokenizer:
    """How llama.cpp cuts text: special tokens first, each in turn over all that is left, longest first; then bytes.

    After `tokenizer_st_partition` of llama-vocab.cpp. What is left goes to byte-level BPE and comes out as single bytes,
    because no merge of the file applies.
    """

    def __init__(self, tokens: list[GgufToken]) -> None:
        special = [token.text for token in tokens if token.kind in ("CONTROL", "USER_DEFINED")]
        self.special = sorted(special, key=lambda text: -len(text.encode()))
        self.ids = {token.text: index for index, token in enumerate(tokens)}
        assert len(self.ids) == len(tokens), "llama.cpp wants every text once"

    def encode(self, text: str) -> list[int]:
        fragments: list[str | int] = [text]
        for special in (special for special in self.special if special in text):
            fragments = [piece for part in fragments for piece in self._cut(part, special)]
        return [index for part in fragments for index in self._ids(part)]

    def _cut(self, fragment: str | int, special: str) -> list[str | int]:
        if isinstance(fragment, int) or special not in fragment:
            return [fragment]
        pieces: list[str | int] = []
        for part in fragment.split(special):
            pieces += [self.ids[special], part]
        return [piece for piece in pieces[1:] if piece != ""]

    def _ids(self, part: str | int) -> list[int]:
        if isinstance(part, int):
            return [part]
        return [self.ids[symbol] for word, _ in SYMBOLS.pre_tokenize_str(part) for symbol in word]


LLAMA = LlamaTokenizer(gguf_tokens(MEMBER))


def original(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False).ids


def test_llama_cpp_cuts_questions_and_whole_transcripts_as_the_members_tokenizer_does() -> None:
    rng = Random(23)
    for index in range(QUESTIONS):
        problem = generate(rng, sorted(FAMILIES)[index % len(FAMILIES)], LEVELS[index % len(LEVELS)], "eval")
        switch = ("", *SWITCHES)[index % 3]
        prompt = render(last_turn([{"role": "user", "content": f"{problem.question} {switch}"}]))
        thought = f"<think>\n{problem.trace}"
        kept = original(thought)[: rng.randrange(1, len(original(thought)))]
        cut = TOKENIZER.decode(kept, skip_special_tokens=False).removesuffix("\n")
        for message in (f"{thought}\n</think>\n\n", EMPTY_THINKING, f"{cut}\n</think>\n\n"):
            text = f"{prompt}{message}{problem.sentence}<|im_end|>"
            assert LLAMA.encode(text) == original(text)


@given(
    st.lists(
        st.sampled_from([token.text for token in gguf_tokens(MEMBER) if token.text.startswith(" ")])
        | st.sampled_from([".", ",", ":", "?", "<think>", "</think>\n\n"]),
        max_size=30,
    )
)
def test_any_row_of_the_members_words_is_cut_alike(words: list[str]) -> None:
    text = "".join(words)
    assert LLAMA.encode(text) == original(text)


@given(st.text())
def test_no_text_is_lost_on_the_way(text: str) -> None:
    assert TOKENIZER.decode(LLAMA.encode(text), skip_special_tokens=False) == text


def test_the_file_holds_every_tensor_the_template_and_the_sizes(tmp_path: Path) -> None:
    from gguf import GGUFReader

    file = tmp_path / "member.gguf"
    export_gguf(MEMBER, file, name="a member")
    reader = cast("Any", GGUFReader(file))
    config = json.loads((MEMBER / "config.json").read_text())
    weights = read_weights(MEMBER / "model.safetensors")
    tensors = {tensor.name: tensor.data for tensor in reader.tensors}
    assert len(tensors) == len(weights)
    query = f"model.layers.{config['num_hidden_layers'] - 1}.self_attn.q_proj.weight"
    stored = tensors[f"blk.{config['num_hidden_layers'] - 1}.attn_q.weight"]
    np.testing.assert_array_equal(stored, weights[query])
    np.testing.assert_array_equal(tensors["token_embd.weight"], weights["model.embed_tokens.weight"])

    def field(name: str) -> Any:
        return reader.get_field(name).contents()

    assert field("tokenizer.chat_template") == (MEMBER / "chat_template.jinja").read_text()
    assert field("qwen3.attention.key_length") == config["head_dim"]
    assert field("qwen3.rope.freq_base") == config["rope_theta"]
    assert field("tokenizer.ggml.eos_token_id") == config["eos_token_id"]
    assert len(field("tokenizer.ggml.tokens")) == config["vocab_size"] == len(tensors["token_embd.weight"])


def test_a_tokenizer_with_merges_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "other"
    shutil.copytree(MEMBER, directory)
    path = directory / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["merges"] = [["a", "b"]]
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(ConfigError, match="without merges"):
        export_gguf(directory, tmp_path / "x.gguf", name="x")


def run(*arguments: str) -> int:
    old, sys.argv = sys.argv, ["thinkroute", "fleet", "export", *arguments]
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    finally:
        sys.argv = old
    return 0


def test_the_command_writes_a_member_from_any_folder(tmp_path: Path) -> None:
    shutil.copytree(MEMBER, tmp_path / "fleet" / "mine")
    file = tmp_path / "mine.gguf"
    assert run("--gguf", str(file), "--member", "mine", "--dir", str(tmp_path / "fleet")) == 0
    assert file.read_bytes()[:4] == b"GGUF"


def test_an_unknown_member_and_a_missing_package_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("--gguf", str(tmp_path / "x.gguf"), "--member", "nobody") != 0
    assert "known members" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert run("--gguf", str(tmp_path / "x.gguf"), "--member", shipped.names()[0]) != 0
    assert "thinkroute[gguf]" in capsys.readouterr().err
