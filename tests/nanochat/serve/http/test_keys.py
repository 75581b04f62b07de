"""Keys: how files of them are read, how they are told apart, and how long guessing takes."""

from __future__ import annotations

import pytest

from nanochat.serve.http.keys import FREE_GUESSES, MOST_ADDRESSES, BackOff, bearer, name_of, network, parse_keys


def test_one_key_or_a_named_one_for_each_client() -> None:
    assert parse_keys("correct-horse\n", "F") == {"correct-horse": ""}
    assert parse_keys("# ours\n\nann correct-horse\nbob\tbattery-staple\n", "F") == {"correct-horse": "ann", "battery-staple": "bob"}
    assert parse_keys("ann correct-horse", "F") == {"correct-horse": "ann"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "F has no token"),
        ("# none\n", "F has no token"),
        ("secret1", "8 or more ASCII"),
        ("secret-é-secret", "8 or more ASCII"),
        ("a secret sentence", "without spaces"),
        ("ann secret-one\nsecret-two", "line 2 of F has no name"),
        ("ann secret-one\nann secret-two", "line 2 of F repeats"),
        ("ann secret-one\nbob secret-one", "line 2 of F repeats"),
        ("a.b secret-one", "invalid name in line 1 of F"),
        ("../x secret-one", "invalid name in line 1 of F"),
    ],
)
def test_what_is_no_file_of_keys_is_refused_without_naming_a_key(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as error:
        parse_keys(text, "F")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("header", ["Bearer correct-horse", "bearer correct-horse", "BEARER   correct-horse ", " bEARER correct-horse"])
def test_the_scheme_may_be_written_in_any_case(header: str) -> None:
    assert name_of(bearer(header), {"other-key-here": "bob", "correct-horse": "ann"}) == "ann"


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic correct-horse", "correct-horse", "Bearercorrect-horse"])
def test_what_is_no_key(header: str) -> None:
    assert bearer(header) is None


def test_a_wrong_key_has_no_name() -> None:
    for wrong in ("correct-hors", "correct-horsee", "CORRECT-HORSE", "\xe9", "\udcff"):
        assert name_of(wrong, {"correct-horse": ""}) is None


def test_who_guesses_waits_longer_and_longer_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("nanochat.serve.http.keys.time.monotonic", lambda: now)
    back_off, looked_at = BackOff(), 0
    assert back_off.pause("9.9.9.9", "ann") == 0
    for _ in range(10_000):  # in 100 s
        now += 0.01
        looked_at += back_off.pause("9.9.9.9", None) == 0
    assert FREE_GUESSES < looked_at <= FREE_GUESSES + 8
    assert back_off.pause("9.9.9.9", "bob") > 0  # right, but it could be a guess
    assert back_off.pause("9.9.9.9", "ann") == 0 and back_off.pause("9.9.9.8", "bob") == 0
    now += 60
    assert back_off.pause("9.9.9.9", "bob") == 0
    now += 10_000
    for _ in range(FREE_GUESSES - 1):  # forgotten
        assert back_off.pause("9.9.9.9", None) == 0
    assert back_off.pause("9.9.9.9", "eve") == 0
    for i in range(MOST_ADDRESSES + 5):
        back_off.pause(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}", None)
    assert len(back_off._guesses) <= MOST_ADDRESSES + 1


def test_one_client_has_many_addresses_of_ipv6() -> None:
    assert network("2001:db8::1") == network("2001:db8::ffff") != network("2001:db8:0:1::1")
    assert network("::ffff:10.0.0.1") == network("10.0.0.1") != network("10.0.0.2")
    assert network("fe80::1%eth0") == network("fe80::2") and network("") == ""
