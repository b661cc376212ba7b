"""The file of API keys: what a line says, which key is whose, and what is refused."""

from datetime import UTC, datetime

import pytest
from headrace_server.errors import ModelRefused, Unauthenticated
from headrace_server.rpc.api_keys import PREFIX, line, new_key, parse
from headrace_server.rpc.identity import Identity
from hypothesis import given
from hypothesis import strategies as st

NOON = datetime(2027, 1, 31, 12, tzinfo=UTC)


def test_each_key_is_its_tenants_and_a_tenant_may_have_several() -> None:
    ours, also_ours, theirs = (new_key() for _ in range(3))
    lines = [line("team-a", ours), line("team-b", theirs), "", "# a comment", line("team-a", also_ours) + "  # laptop"]
    keys = parse("\n".join(lines), "file")
    assert len(keys) == 3
    assert keys.identity(ours, 0.0) == keys.identity(also_ours, 0.0) == Identity("team-a")
    assert keys.identity(theirs, 0.0) == Identity("team-b")


def test_a_line_holds_nothing_that_opens_the_door() -> None:
    key = new_key()
    assert key.startswith(PREFIX)
    written = line("team-a", key)
    assert key not in written
    digest = written.split()[1]
    for word in (written, digest, digest.removeprefix("sha256:")):
        with pytest.raises(Unauthenticated):
            parse(written, "file").identity(word, 0.0)


def test_a_key_counts_until_it_expires() -> None:
    key = new_key()
    keys = parse(line("team-a", key, NOON), "file")
    assert keys.identity(key, NOON.timestamp() - 0.001) == Identity("team-a")
    with pytest.raises(Unauthenticated, match="expired on 2027-01-31T12:00:00Z"):
        keys.identity(key, NOON.timestamp())


@given(st.text(max_size=80))
def test_no_other_words_pass(words: str) -> None:
    with pytest.raises(Unauthenticated):
        parse(line("team-a", new_key()), "file").identity(words, 0.0)


DIGEST = line("x", "y").split()[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "holds no key", id="empty, as a file is that is being written"),
        pytest.param("# nothing\n", "holds no key", id="a comment only"),
        pytest.param("team-a", "line 1: must be TENANT sha256:HEX", id="one word"),
        pytest.param(f"a {DIGEST} 2027-01-01 more", "line 1: must be TENANT", id="four words"),
        pytest.param(f"a {new_key()}", "never the key itself", id="the key itself"),
        pytest.param(f"a {DIGEST.upper()}", "64 hex digits", id="in capitals"),
        pytest.param(f"a {DIGEST[:-1]}", "64 hex digits", id="cut off"),
        pytest.param(f"a {DIGEST} tomorrow", "'tomorrow' is no date", id="no date"),
        pytest.param(f"{'a' * 129} {DIGEST}", "1 to 128 printable", id="a name that is too long"),
        pytest.param(f"a\x00 {DIGEST}", "1 to 128 printable", id="a name that is not printable"),
        pytest.param(f"a {DIGEST}\n\nb {DIGEST}", "the same key twice", id="one key of two tenants"),
    ],
)
def test_what_is_no_file_of_keys_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ModelRefused, match=message):
        parse(text, "file")


@given(st.text(max_size=200))
def test_any_text_is_keys_or_a_refusal(text: str) -> None:
    try:
        count = len(parse(text, "file"))
    except ModelRefused:
        return
    assert count > 0


@pytest.mark.parametrize("name", ["", "two words", "a#b", "a" * 129, "tab\t"])
def test_a_name_that_the_file_could_not_hold_gets_no_key(name: str) -> None:
    with pytest.raises(ModelRefused, match="--tenant"):
        line(name, new_key())
