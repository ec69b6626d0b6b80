"""Tests of messages: the control language, read and worded."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotrack import messages
from twotrack.errors import RequestError
from twotrack.messages import Close, Discard, Drain, ErrorCode, List, Open, Retry, Show, Status, Watch
from twotrack.side import Side

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = {
    "open": ["connection_id", "input_ssrc", "output_ssrc", "metadata"],
    "close": ["connection_id", "side", "wait"],
    "status": [],
    "list": ["state"],
    "show": ["connection_id"],
    "discard": ["connection_id"],
    "watch": [],
    "retry": ["connection_id"],
    "drain": [],
}
ops = list(MEMBERS)


@st.composite
def any_request(draw):
    """A known op with members of its own, of any type."""
    op = draw(st.sampled_from(ops))
    names = draw(st.sets(st.sampled_from([*MEMBERS[op], "tag"])))
    return {"op": op, **{name: draw(json_values) for name in names}}


def _parse(**members):
    return messages.parse_request(members)


def _refusal(code, **members):
    """The message of the refusal of a request."""
    with pytest.raises(RequestError) as refused:
        messages.parse_request(members)
    assert refused.value.code == code
    return refused.value.message


@pytest.mark.parametrize(
    ("members", "request_"),
    [
        ({"op": "open", "connection_id": "a"}, Open("a", None, None, None)),
        (
            {"op": "open", "connection_id": "a", "input_ssrc": 0, "output_ssrc": "0xFFFFFFFF"},
            Open("a", 0, 2**32 - 1, None),
        ),
        (
            {"op": "open", "connection_id": "a", "input_ssrc": None, "metadata": {"k": "é"}},
            Open("a", None, None, {"k": "é"}),
        ),
        ({"op": "open", "connection_id": "a", "metadata": {}}, Open("a", None, None, {})),
        ({"op": "close", "connection_id": "a"}, Close("a", None, False)),
        ({"op": "close", "connection_id": "a", "side": "input", "wait": True}, Close("a", Side.INPUT, True)),
        ({"op": "close", "connection_id": "a", "side": None, "wait": False}, Close("a", None, False)),
        ({"op": "close", "connection_id": "a", "side": "output"}, Close("a", Side.OUTPUT, False)),
        ({"op": "status"}, Status()),
        ({"op": "list"}, List(None)),
        ({"op": "list", "state": "open"}, List("open")),
        ({"op": "show", "connection_id": "a"}, Show("a")),
        ({"op": "discard", "connection_id": "a"}, Discard("a")),
        ({"op": "watch"}, Watch()),
        ({"op": "retry"}, Retry(None)),
        ({"op": "retry", "connection_id": "a"}, Retry("a")),
        ({"op": "drain"}, Drain()),
        ({"op": "status", "tag": 7}, Status()),
    ],
)
def test_every_request_is_read(members, request_):
    """Each op and its members become a typed value; a tag may stand beside them."""
    assert messages.parse_request(members) == request_


@pytest.mark.parametrize("op", [None, 7, ["open"], {}, True])
def test_an_op_that_is_no_name(op):
    """A request without an op, or with one that is no text, is a bad request."""
    assert '"op"' in _refusal("bad_request", op=op)


@pytest.mark.parametrize("op", ["", "Open", "opened", "__init__"])
def test_an_unknown_op_is_told_the_known_ones(op):
    """An op that does not exist is answered with all that do."""
    message = _refusal("unknown_op", op=op)
    assert all(name in message for name in ops)


@pytest.mark.parametrize("op", ops)
def test_an_unknown_member_is_told_the_known_ones(op):
    """A member that an op does not have, perhaps misspelt, is a bad request that names it and those that there are."""
    message = _refusal("bad_request", op=op, unheard_of=1)
    assert all(name in message for name in ["unheard_of", *MEMBERS[op]])


@pytest.mark.parametrize("op", ["open", "close", "show", "discard"])
@pytest.mark.parametrize("connection_id", [None, 7, ["a"], {}, True])
def test_a_connection_id_that_is_no_text(op, connection_id):
    """A connection id that is missing, a number or else no string is a bad request."""
    assert "connection_id" in _refusal("bad_request", op=op, connection_id=connection_id)


@pytest.mark.parametrize("connection_id", [7, ["a"], True])
def test_retry_with_an_id_that_is_no_text(connection_id):
    """A retry without an id is of all calls, but one with another thing than text is a bad request."""
    _refusal("bad_request", op="retry", connection_id=connection_id)


@pytest.mark.parametrize(
    "ssrc", [-1, 2**32, 1.5, True, False, "", "x", "0x", "0x1_0", "1_0", " 7", "+7", "-0", "٣", "0x100000000", [1], {}]
)
@pytest.mark.parametrize("name", ["input_ssrc", "output_ssrc"])
def test_an_ssrc_of_a_wrong_form_is_refused(name, ssrc):
    """What is no 32-bit integer and no plain decimal or 0x text of one is a bad request."""
    assert name in _refusal("bad_request", op="open", connection_id="a", **{name: ssrc})


@pytest.mark.parametrize(
    ("text", "ssrc"), [(7, 7), ("7", 7), ("0x7", 7), ("0X0001E240", 123_456), ("0xffffffff", 2**32 - 1), (0, 0)]
)
def test_every_form_of_an_ssrc_is_read(text, ssrc):
    """An SSRC may be an integer, or its decimal or hexadecimal text."""
    assert messages.parse_ssrc(text) == ssrc


@given(json_values)
def test_parse_ssrc_raises_only_value_error(value):
    """Any value is an SSRC or a ValueError."""
    with suppress(ValueError):
        assert 0 <= messages.parse_ssrc(value) <= 2**32 - 1


@pytest.mark.parametrize("side", ["left", "", "INPUT", 1, ["input"], {}, False])
def test_an_unknown_side_is_refused(side):
    """A side other than input and output is a bad request."""
    assert "side" in _refusal("bad_request", op="close", connection_id="a", side=side)


@pytest.mark.parametrize("wait", [0, 1, "true", []])
def test_a_wait_that_is_no_boolean_is_refused(wait):
    """Wait is true or false, and nothing that could be taken for it."""
    assert "wait" in _refusal("bad_request", op="close", connection_id="a", wait=wait)


@pytest.mark.parametrize("state", [7, ["open"], True])
def test_a_state_that_is_no_name_is_refused(state):
    """A list's state is a name."""
    assert "state" in _refusal("bad_request", op="list", state=state)


@pytest.mark.parametrize("metadata", [7, "text", [], ["a"], {"k": 7}, {"k": None}, {"k": {}}, {"a": "b", "k": True}])
def test_metadata_of_other_than_strings_is_refused(metadata):
    """Metadata is an object whose members are strings."""
    assert "metadata" in _refusal("bad_request", op="open", connection_id="a", metadata=metadata)


@pytest.mark.parametrize("metadata", [{"k": "\ud800"}, {"\udfff": "v"}])
def test_metadata_with_a_lone_surrogate_is_refused(metadata):
    """Metadata that can't be written as UTF-8 is a bad request."""
    assert "surrogate" in _refusal("bad_request", op="open", connection_id="a", metadata=metadata)


@pytest.mark.parametrize("text", ["x" * 16_375, "é" * 8_187])
def test_metadata_up_to_the_limit_is_taken(text):
    """Metadata holds up to 16 KiB, counted as UTF-8."""
    assert _parse(op="open", connection_id="a", metadata={"k": text}).metadata == {"k": text}


@pytest.mark.parametrize("text", ["x" * 16_376, "é" * 8_188])
def test_metadata_beyond_the_limit_is_refused(text):
    """Metadata of one byte more than 16 KiB is a bad request that says the limit."""
    assert "16384" in _refusal("bad_request", op="open", connection_id="a", metadata={"k": text})


@given(any_request())
def test_any_request_is_read_or_refused(members):
    """Members of any type are read, or refused with a code of the control language and one sentence."""
    try:
        request = messages.parse_request(members)
    except RequestError as error:
        _judge(error)
        return
    assert type(request).__name__.lower() == members["op"]


def _judge(error):
    assert error.code in list(ErrorCode)
    assert error.message
    assert "\n" not in error.message


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_an_object_on_a_line_is_read(members):
    """Any JSON object in UTF-8 is read back as it was sent."""
    for is_ascii in (True, False):
        text = json.dumps(members, ensure_ascii=is_ascii)
        assert messages.parse_line(text.encode("utf-8", "surrogatepass" if is_ascii else "strict")) == members


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"open",
        b"{",
        b'{"op": "status"',
        b'{"op": "status"} {"op": "status"}',
        b"{'op': 'status'}",
        b"[]",
        b'"op"',
        b"7",
        b"null",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b"[" * 60_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b'{"a": ' + b"9" * 5000 + b"}",
        b"\xff\xfe",
        b'{"op": "\xe9"}',
        b'{"op": "\xed\xa0\x80"}',
        '{"op": "status"}'.encode("utf-16"),
    ],
)
def test_a_line_that_is_no_object_is_refused(line):
    """What is not UTF-8, not JSON, not an object, or too deep is a bad request."""
    with pytest.raises(RequestError) as refused:
        messages.parse_line(line)
    assert refused.value.code == "bad_request"
    _judge(refused.value)


@given(st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
def test_any_line_is_read_or_refused(line):
    """Arbitrary bytes are an object or a bad request."""
    try:
        assert isinstance(messages.parse_line(line), dict)
    except RequestError as error:
        assert error.code == "bad_request"  # noqa: PT017


def test_replies_are_worded():
    """A reply says yes with its members, or no with a code and a message, on one line."""
    assert messages.success({"references": 1}) == {"ok": True, "references": 1}
    error = RequestError(ErrorCode.UNKNOWN_CONNECTION, "open it first")
    assert messages.failure(error) == {"ok": False, "error": {"code": "unknown_connection", "message": "open it first"}}


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_a_reply_is_one_line(reply):
    """Whatever a reply holds, it is one line that reads back the same."""
    line = messages.line(reply)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert messages.parse_line(line) == reply


def test_the_codes_are_those_of_the_contract():
    """The codes are exactly those that clients may rely on."""
    assert set(ErrorCode) == {
        *("bad_request", "unknown_op", "invalid_connection_id", "unknown_connection", "ssrc_in_use", "already_closed"),
        *("too_many_connections", "spool_full", "cache_disabled", "draining", "forbidden"),
        *("merge_failed", "storage_failed", "internal"),
    }
