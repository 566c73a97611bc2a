"""Whatever comes as an event or an address is taken rightly or refused in one line."""

import json

import pytest
from hostile import ANY_BYTES, CHANGES, changed, taken_or_refused
from hypothesis import assume, given
from hypothesis import strategies as st

from features.addresses import hide_password, postgresql_url, redis_connection
from features.logs.events import ingest
from hymirec.errors import HymirecError, UsageError

EVENT = {
    "event_id": "e1", "user_id": "42", "item_id": "1288", "kind": "click",
    "time": "2026-11-03T10:00:00Z", "value": 1.5, "context": {"request_id": "r1"},
}  # fmt: skip
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)


class Log:
    """Keeps what it is given."""

    def __init__(self):
        self.events = []

    def append(self, events):
        self.events += events
        return len(events)


def take(*lines):
    log = Log()
    return taken_or_refused(ingest, log, lines, "events.jsonl"), log.events


def assert_storable(events):
    """What is in the log can be written to any database and sorted by time."""
    for one in events:
        for text in (one.event_id, one.user_id, one.item_id):
            assert text
            assert "\0" not in text
            assert text.encode()
        assert -(2**63) < one.time < 2**63
        assert json.loads(json.dumps(one.context)) == one.context


@given(line=st.one_of(ANY_BYTES, st.builds(changed, st.just(json.dumps(EVENT).encode()), CHANGES)))
def test_lines_of_any_bytes(line):
    _, events = take(line)
    assert_storable(events)


@given(field=st.sampled_from(sorted(EVENT)), value=JSON)
def test_an_event_with_a_field_of_any_kind(field, value):
    found, events = take(json.dumps(EVENT | {field: value}))
    assert_storable(events)
    if isinstance(found, HymirecError):
        assert str(found).startswith("events.jsonl line 1: ")


@given(line=JSON)
def test_a_line_that_is_other_json(line):
    found, _ = take(json.dumps(line))
    assert isinstance(found, HymirecError)


# Addresses, which have passwords in them


SECRET = st.text(st.characters(codec="utf-8", exclude_characters="@/?#[]: \r\n\t"),
                 min_size=6, max_size=20)  # fmt: skip
ADDRESSES = st.sampled_from(
    [
        "postgresql://user:{}@host/database",
        "postgresql://user:{}@host:notaport/database",
        "postgresql://:{}@host",
        "mysql://user:{}@host/database",
        "redis://user:{}@host:6379/notanumber",
        "redis://:{}@host:6379",
        "redis://user:{}@/0",
        "postgresql://user:{}@",
        "user:{}@host/database",
        "postgresql//user:{}@host",
        "postgresql://host/database?user=u&password={}",
        "postgresql://user:{}@[host/database",
    ]
)


@pytest.mark.parametrize("read", [postgresql_url, redis_connection])
@given(secret=SECRET, address=ADDRESSES)
def test_no_message_about_an_address_tells_its_password(read, secret, address):
    assume(secret not in address and secret not in "HYMIREC_TEST: cannot have a comma")
    whole = address.format(secret)
    assert secret not in hide_password(whole)
    found = taken_or_refused(read, "HYMIREC_TEST", whole)
    if isinstance(found, HymirecError):
        assert secret not in str(found)
        assert isinstance(found, UsageError)
        assert str(found).startswith("HYMIREC_TEST: ")


@pytest.mark.parametrize("read", [postgresql_url, redis_connection])
@given(address=st.text(max_size=60))
def test_addresses_of_any_text(read, address):
    taken_or_refused(read, "HYMIREC_TEST", address)
