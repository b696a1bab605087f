"""Pseudonyms of users: keyed, so that nobody without the key can tell which user one stands for, or find out by trying ids.

HMAC-SHA-256 (RFC 2104) of the id, under a key from the environment. The key is in no file, log or answer; its fingerprint is kept with a
dataset, so that another key is noticed.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from clm_ray.config.privacy import PrivacyConfig
from clm_ray.errors import ConfigError

_SHORTEST_KEY = 16
_FINGERPRINT = b"clm_ray: fingerprint of the key"


@dataclass(frozen=True)
class Pseudonyms:
    """The key; never shown. Made by `open_pseudonyms`."""

    key: bytes = field(repr=False)

    def of(self, user_id: str) -> str:
        """The pseudonym of one user: 32 hexadecimal digits (128 bits)."""
        return hmac.digest(self.key, b"user:" + user_id.encode(), "sha256").hex()[:32]

    def of_column(self, user_ids: pa.Array) -> pa.Array:
        """The pseudonyms of strings; null stays null. Each distinct id is worked out once."""
        encoded = pc.dictionary_encode(user_ids)
        known = pa.array([self.of(user_id) for user_id in encoded.dictionary.to_pylist()], pa.string())
        return known.take(encoded.indices)

    def fingerprint(self) -> str:
        """What can be written down to recognise the key."""
        return hmac.digest(self.key, _FINGERPRINT, "sha256").hex()[:16]


def open_pseudonyms(config: PrivacyConfig, environment: Mapping[str, str] = os.environ) -> Pseudonyms | None:
    """The pseudonyms that the recipe asks for; None where users keep their ids. Raises ConfigError where the key is missing or short."""
    if not config.pseudonyms:
        return None
    key = environment.get(config.key_variable, "").strip()
    if len(key) < _SHORTEST_KEY:
        raise ConfigError(
            f"the key has {len(key)} characters, {_SHORTEST_KEY} are needed" if key else "there is no key",
            field=f"environment variable {config.key_variable}",
            fix="set it to a long random text (e.g. `openssl rand -hex 32`) where this program runs, and keep it: "
            "with another key every user is a new one",
        )
    return Pseudonyms(key.encode())


def check_fingerprint(pseudonyms: Pseudonyms | None, expected: str | None, *, field: str) -> None:
    """Raises ConfigError where data made with one key (`expected`: its fingerprint; None: without) meet another."""
    found = None if pseudonyms is None else pseudonyms.fingerprint()
    if found != expected:
        raise ConfigError(
            "the pseudonyms there were made with another key"
            if found and expected
            else "users have pseudonyms there, or here, not both",
            field=field,
            fix="use the same privacy.pseudonyms and the same key, or a fresh workspace",
        )
