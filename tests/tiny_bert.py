"""A tiny random BERT with a WordPiece tokenizer, made on the spot: tests need no weights and no network."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

HIDDEN = 16
LAYERS = 3
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_tiny_bert(folder: Path, texts: Iterable[str], *, seed: int = 0) -> Path:
    """Save encoder and tokenizer as a Hugging Face folder; the vocabulary is the words of `texts`. Deterministic."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    words = sorted({word for text in texts for word in re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]", text.lower())})
    digits = [str(n) for n in range(10)]
    vocabulary = dict.fromkeys([*_SPECIAL, *words, *digits, *(f"##{d}" for d in digits)])
    tokenizer = BertTokenizer(vocab={word: n for n, word in enumerate(vocabulary)})
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        intermediate_size=2 * HIDDEN,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    torch.manual_seed(seed)
    BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
