"""Inputs that nobody would write: bytes of any kind, and valid ones with something wrong in it."""

from hypothesis import strategies as st

from hymirec.errors import HymirecError

ANY_BYTES = st.binary(max_size=400)
CHANGES = st.lists(
    st.tuples(st.sampled_from(["set", "cut", "add", "end"]), st.integers(0), st.binary(max_size=8)),
    min_size=1, max_size=4,
)  # fmt: skip


def changed(valid: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    """Valid bytes with bytes overwritten, cut out, put in, or the end missing."""
    found = bytearray(valid)
    for kind, place, piece in changes:
        at = place % (len(found) + 1)
        if kind == "set":
            found[at : at + len(piece)] = piece
        elif kind == "cut":
            del found[at : at + 1 + len(piece)]
        elif kind == "add":
            found[at:at] = piece
        else:
            del found[at:]
    return bytes(found)


def taken_or_refused(work, *arguments):
    """What a call gives, or its one line; any other error is one that nobody has thought of."""
    try:
        return work(*arguments)
    except HymirecError as error:
        message = str(error)
        assert message.strip(), "an error has to say something"
        assert "\n" not in message, f"not one line: {message!r}"
        assert len(message) < 1000, f"too long to read: {message[:200]!r}…"
        return error
