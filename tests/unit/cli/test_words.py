"""Words that people type and read."""

import time

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from slackwater.cli import words
from slackwater.cli.failure import EXIT_USAGE, Failure
from slackwater.v1 import common_pb2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("512", 512),
        ("256MiB", 256 << 20),
        ("1.5GiB", 3 << 29),
        ("10GB", 10**10),
        ("64 TiB", 64 << 40),
        ("-5", -5),
        ("1kib", 1024),
    ],
)
def test_size_is_read_with_binary_and_decimal_units(text: str, value: int) -> None:
    assert words.parse_size(text, "--size") == value


@pytest.mark.parametrize("text", ["", "big", "1M", "1.3B", "MiB", "1 2", "99999999TiB"])
def test_size_that_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(Failure, match="--size") as caught:
        words.parse_size(text, "--size")
    assert caught.value.exit_code == EXIT_USAGE


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("5", 5),
        ("2.5", 2.5),
        ("500ms", 0.5),
        ("10m", 600),
        ("1h30m", 5400),
        ("1d", 86400),
    ],
)
def test_duration_is_read_with_its_units(text: str, value: float) -> None:
    assert words.parse_duration(text, "--wait") == value


@pytest.mark.parametrize("text", ["", "soon", "-1", "5 s", "m5", "1x", "nan", "inf", "1e300"])
def test_duration_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Failure, match="--wait"):
        words.parse_duration(text, "--wait")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0B"), (1023, "1023B"), (1024, "1KiB"), (3 << 29, "1.5GiB"), (64 << 40, "64TiB")],
)
def test_size_is_shown_short(value: int, text: str) -> None:
    assert words.size(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0s"),
        (0.0012, "1.2ms"),
        (0.5, "0.5s"),
        (59.94, "59.9s"),
        (61, "1m01s"),
        (3720, "1h02m"),
        (90000, "1d01h"),
    ],
)
def test_duration_is_shown_short(value: float, text: str) -> None:
    assert words.seconds(value) == text


def test_age_of_the_future_is_nothing_and_of_nothing_is_never() -> None:
    now = time.time()
    assert words.age(Timestamp(seconds=int(now) + 60), now) == "0s ago"
    assert words.age(Timestamp(), now) == "never"
    assert words.moment(Timestamp()) == "-"


def test_position_is_epoch_and_lsn() -> None:
    assert words.position(common_pb2.Position(epoch=2, lsn=71)) == "2/71"
    assert words.position(common_pb2.Position()) == "-"


def test_milliseconds_keep_their_unit() -> None:
    assert words.milliseconds(Duration(seconds=2, nanos=3_400_000)) == "2003.4 ms"


@pytest.mark.parametrize("text", ["demo", "groups/demo"])
def test_group_is_named_short_or_whole(text: str) -> None:
    assert words.group_name(text) == "groups/demo"


@pytest.mark.parametrize("text", ["", "groups/", "a/b", "groups/a/volumes/b"])
def test_what_names_no_group_is_refused(text: str) -> None:
    with pytest.raises(Failure):
        words.group_name(text)


@pytest.mark.parametrize(
    ("first", "second"),
    [("demo/data", None), ("demo", "data"), ("groups/demo/volumes/data", None)],
)
def test_child_is_named_in_three_ways(first: str, second: str | None) -> None:
    assert words.child_name(first, second, "volumes") == "groups/demo/volumes/data"


@pytest.mark.parametrize("text", ["demo", "demo/", "/data", "groups/demo", "groups/d/links/x"])
def test_what_names_no_volume_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(Failure) as caught:
        words.child_name(text, None, "volumes")
    assert "demo/data" in caught.value.next_step
