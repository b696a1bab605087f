"""The usual BERT ranker: a cross-encoder that reads what a user did and one candidate as a text pair, once per impression.

Shape letters: P impressions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from clm_ray.config.model import EncoderConfig
from clm_ray.evaluate.dataset import Case, Dataset
from clm_ray.model.text import load_pretrained

TOKENS = 128
BATCH = 32
LEARNING_RATE = 5e-5


@dataclass(frozen=True)
class Pair:
    """One impression: what the user did before, the candidate, and the answer. `key`: (user, time, item row)."""

    key: tuple[str, int, int]
    history: str
    candidate: str
    label: float


def pairs(cases: Iterator[Case], dataset: Dataset) -> list[Pair]:
    """Every impression of `cases`; the history is told from the newest event to the oldest, strictly before the moment."""
    texts, found = dataset.catalogue.texts, []
    for case in cases:
        labels = dataset.vocabulary.labels(case.history)
        asked = case.shown
        for q, moment in enumerate(asked.time_Q.tolist()):
            before = int(np.searchsorted(case.history.time_N, moment))
            told = " ; ".join(
                f"{'liked' if labels[n] > 0 else 'disliked'} {texts[case.history.item_N[n]]}"
                for n in range(before - 1, max(before - 24, 0) - 1, -1)
            )
            for p in range(asked.start_Q[q], asked.start_Q[q + 1]):
                item = int(asked.item_P[p])
                found.append(Pair((case.user_id, moment, item), told, texts[item], float(asked.label_P[p])))
    return found


class CrossEncoder(nn.Module):
    """Every layer trained; a linear head on the first token."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        encoder, self.tokenizer = load_pretrained(config)
        self.encoder: Any = encoder
        self.head = nn.Linear(cast(Any, encoder).config.hidden_size, 1)

    def forward(self, batch: Sequence[Pair]) -> torch.Tensor:
        """Logits [P]."""
        given = self.tokenizer(
            [pair.candidate for pair in batch],
            [pair.history for pair in batch],
            truncation="only_second",
            max_length=TOKENS,
            padding="max_length",
            return_tensors="pt",
        )
        first = self.encoder(**given).last_hidden_state[:, 0]
        logit: torch.Tensor = self.head(first).squeeze(-1)
        return logit


def fit(model: CrossEncoder, train: Sequence[Pair]) -> float:
    """One pass; impressions per second."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    model.train()
    began = time.perf_counter()
    for first in range(0, len(train), BATCH):
        batch = train[first : first + BATCH]
        label = torch.tensor([pair.label for pair in batch])
        loss = nn.functional.binary_cross_entropy_with_logits(model(batch), label)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return len(train) / (time.perf_counter() - began)


@torch.inference_mode()
def score(model: CrossEncoder, test: Sequence[Pair]) -> NDArray[np.float64]:
    """Logits [P]."""
    model.eval()
    parts = [model(test[first : first + BATCH]) for first in range(0, len(test), BATCH)]
    return torch.cat(parts).double().numpy()
