import hashlib
import string

import pytest

from corral.guard.new_key import hash_key, looks_like_key, new_key


def test_keys_have_one_length_one_prefix_and_never_repeat() -> None:
    keys = {new_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert {len(key) for key in keys} == {53}
    assert all(key.startswith("crl_") for key in keys)
    assert set("".join(keys)) <= set(string.ascii_letters + string.digits + "_")


def test_a_made_key_is_recognised() -> None:
    assert all(looks_like_key(new_key()) for _ in range(100))


def test_one_wrong_character_anywhere_is_a_typo() -> None:
    key = new_key()
    for at in range(len(key)):
        wrong = "x" if key[at] != "x" else "y"
        assert not looks_like_key(key[:at] + wrong + key[at + 1 :])


@pytest.mark.parametrize("text", ["", "crl_", "sk-1234", "crl_" + "ä" * 49])
def test_other_text_is_no_key(text: str) -> None:
    assert not looks_like_key(text)


def test_a_key_cut_short_or_too_long_is_none() -> None:
    key = new_key()
    assert not looks_like_key(key[:-1])
    assert not looks_like_key(key + "0")


def test_a_key_is_hashed_as_sha256sum_does() -> None:
    assert hash_key("letmein") == hashlib.sha256(b"letmein").hexdigest()


def test_undecodable_bytes_of_a_command_line_are_hashed_as_they_came() -> None:
    assert hash_key(b"k\xff".decode("utf-8", "surrogateescape")) == hashlib.sha256(b"k\xff").hexdigest()
