"""A BERT of a few thousand random numbers in a folder of the Hugging Face kind, for encoders that read one."""

from pathlib import Path

import pytest

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "cat", "dog", "sat", "on", "mat", "##s", "prove", "that", "x", "is", "2", "?", ".", ","]


def write_tiny_bert(folder: Path) -> None:
    """Weights, configuration, vocabulary and tokenizer; the same numbers every time."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    vocabulary = [*PIECES, *WORDS, *(chr(code) for code in range(97, 123) if chr(code) not in WORDS)]
    config = transformers.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
        # The usual 0.02 makes every text's vector nearly the same; then no test of closeness could fail.
        initializer_range=0.5,
    )
    folder.mkdir(parents=True, exist_ok=True)
    transformers.BertModel(config).eval().save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    tokenizer = transformers.BertTokenizerFast(
        vocab={piece: number for number, piece in enumerate(vocabulary)}, do_lower_case=True
    )
    tokenizer.save_pretrained(folder)
