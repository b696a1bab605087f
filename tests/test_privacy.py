"""Pseudonyms: stable under one key, unlike under another, and the key shown nowhere."""

from __future__ import annotations

import hashlib
import hmac
import pickle

import pyarrow as pa
import pytest

from clm_ray.config.privacy import PrivacyConfig
from clm_ray.errors import ConfigError
from clm_ray.privacy import Pseudonyms, check_fingerprint, open_pseudonyms

KEY = "correct horse battery staple"
ASKED = PrivacyConfig(pseudonyms=True)


def test_a_pseudonym_is_the_keyed_hash_of_the_id() -> None:
    pseudonyms = open_pseudonyms(ASKED, {"CLM_PSEUDONYM_KEY": f" {KEY}\n"})
    assert pseudonyms is not None
    expected = hmac.new(KEY.encode(), "user:zoë".encode(), hashlib.sha256).hexdigest()[:32]
    assert pseudonyms.of("zoë") == expected
    column = pa.array(["zoë", None, "bob", "zoë"])
    assert pseudonyms.of_column(column).to_pylist() == [expected, None, pseudonyms.of("bob"), expected]
    assert pseudonyms.of_column(column.slice(0, 0)).to_pylist() == []


def test_another_key_gives_other_pseudonyms_and_another_fingerprint() -> None:
    one, two = Pseudonyms(KEY.encode()), Pseudonyms(b"another key of some length")
    assert one.of("u") != two.of("u")
    assert one.fingerprint() != two.fingerprint()
    assert one.fingerprint() == Pseudonyms(KEY.encode()).fingerprint()


def test_the_key_is_shown_nowhere_but_travels() -> None:
    pseudonyms = Pseudonyms(KEY.encode())
    assert KEY not in repr(pseudonyms)
    assert KEY not in str(pseudonyms)
    assert KEY.encode().hex() not in pseudonyms.fingerprint()
    assert pickle.loads(pickle.dumps(pseudonyms)).of("u") == pseudonyms.of("u")


@pytest.mark.parametrize("environment", [{}, {"CLM_PSEUDONYM_KEY": "short"}, {"CLM_PSEUDONYM_KEY": " " * 40}])
def test_without_a_proper_key_nothing_is_read(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="CLM_PSEUDONYM_KEY") as caught:
        open_pseudonyms(ASKED, environment)
    assert "short" not in str(caught.value)


def test_users_keep_their_ids_unless_the_recipe_says_otherwise() -> None:
    assert open_pseudonyms(PrivacyConfig(), {"CLM_PSEUDONYM_KEY": KEY}) is None


def test_data_of_two_keys_do_not_meet() -> None:
    one, two = Pseudonyms(KEY.encode()), Pseudonyms(b"another key of some length")
    check_fingerprint(one, one.fingerprint(), field="release")
    check_fingerprint(None, None, field="release")
    for pseudonyms, expected in ((one, two.fingerprint()), (None, one.fingerprint()), (one, None)):
        with pytest.raises(ConfigError, match="key"):
            check_fingerprint(pseudonyms, expected, field="release")
