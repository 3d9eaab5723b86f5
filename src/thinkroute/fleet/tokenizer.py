"""The fleet's tokenizer, built from its closed language; a standard Hugging Face `tokenizer.json`.

Byte-level BPE without merges over whole words (the space belongs to the word), so every word and every digit of the
language is one token, any other text falls back to bytes, and decoding is exactly the concatenation of the tokens'
texts. Lossless: decode(encode(text)) == text for every text.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from thinkroute.engines.embedded.prompt import (
    CHAT_TEMPLATE,
    SWITCHES,
    THINK_CLOSE,
    THINK_OPEN,
    TURN_END,
    TURN_START,
)
from thinkroute.fleet.tasks import language

PAD = "<|endoftext|>"
SPECIAL = (PAD, TURN_START, TURN_END)
MAX_POSITIONS = 256
_VOCABULARY_MULTIPLE = 16

_WORDS = [
    "is",
    "what",
    "the",
    "last",
    "digit",
    "has",
    "on",
    "she",
    "doubles",
    "triples",
    "them",
    "of",
    "after",
    "all",
    "steps",
    "result",
    "person",
    "we",
    "are",
    "looking",
    "for",
    "with",
    "have",
    "me",
    "age",
    "from",
    "now",
    "check",
    "step",
    "that",
    "right",
    "wrong",
    "so",
]
_RESERVED_WORDS = ["ask", "model", "small", "large", "expert", "people", "numbers", "student", "teacher"]
"""Words of methods that are trained on top of the members: naming a model to call, splitting a question."""
RESERVED_TAGS = (
    "<call>", "</call>", "<search>", "</search>", "<info>", "</info>", "<answer>", "</answer>", "<task>", "</task>",
)  # fmt: skip
"""Tags of the same methods; like the thinking tags, ordinary text of one token each."""


def words() -> list[str]:
    """Every word of the language, in the order of its token ids."""
    phrases = (*language.START_WORDS, *language.WHO_WORDS, *language.ASK_WORDS)
    openings = {word for phrase in phrases for word in phrase}
    listed = [
        *language.NAMES,
        *language.OBJECTS,
        *language.ORDINALS,
        *language.DAYS,
        *language.RELATIONS,
        *language.OPERATORS,
        *language.GAIN_VERBS,
        *language.LOSS_VERBS,
        *sorted(openings),
        *_WORDS,
        *_RESERVED_WORDS,
    ]
    return list(dict.fromkeys(listed))


def _starters() -> list[str]:
    """Words that also occur without a space before them: at the start of a message, a trace or an answer."""
    openings = {phrase[0] for phrase in (*language.START_WORDS, *language.WHO_WORDS)}
    return [
        *language.NAMES,
        language.ORDINALS[0],
        language.DAYS[0],
        *sorted(openings),
        "after",
        "user",
        "assistant",
    ]


def _token_texts() -> list[str]:
    spaced = [f" {word}" for word in (*words(), *"0123456789", *SWITCHES)]
    return [*_starters(), *spaced, "\n\n"]


def build_tokenizer() -> Tokenizer:
    """The tokenizer; the same ids on every machine."""
    byte_symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    to_symbols = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    texts = [to_symbols.pre_tokenize_str(text)[0][0] for text in _token_texts()]
    vocabulary = {symbol: index for index, symbol in enumerate(dict.fromkeys([*byte_symbols, *texts]))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    split = Regex(r" ?/?[a-zA-Z_]+| ?[0-9]|\n+|[^a-zA-Z0-9\n]")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(split, "isolated"), to_symbols])
    tokenizer.decoder = decoders.ByteLevel()
    specials = [AddedToken(text, normalized=False, special=True) for text in SPECIAL]
    tags = [
        AddedToken(text, normalized=False, special=False)
        for text in (THINK_OPEN, THINK_CLOSE, *RESERVED_TAGS)
    ]
    tokenizer.add_special_tokens(specials)  # pyright: ignore[reportUnknownMemberType]
    tokenizer.add_tokens(tags)  # pyright: ignore[reportUnknownMemberType]
    return tokenizer


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Rows of the embedding: the vocabulary rounded up, as engines like it."""
    size = tokenizer.get_vocab_size()
    return -(-size // _VOCABULARY_MULTIPLE) * _VOCABULARY_MULTIPLE


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """The id of a token that must exist.

    Raises:
        ValueError: it does not.
    """
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the tokenizer has no token {token!r}")
    return found


def save_tokenizer(directory: Path) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja` as Transformers reads them."""
    tokenizer = build_tokenizer()
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": TURN_END,
        "pad_token": PAD,
        "model_max_length": MAX_POSITIONS,
        "clean_up_tokenization_spaces": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)
