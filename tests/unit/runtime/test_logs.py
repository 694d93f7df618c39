import io
import json
import logging

import pytest

from slackwater.position import Position
from slackwater.runtime import logs


def written(form: str, level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    logs.configure(level, form, stream)
    return stream


@pytest.mark.parametrize("form", logs.FORMATS)
def test_event_is_one_line_with_position_as_epoch_and_lsn(form: str) -> None:
    stream = written(form)
    logs.get("link").info("link_up", group="g", position=Position(2, 77, 1), note="a\nb")
    (line,) = stream.getvalue().splitlines()
    assert "link_up" in line
    assert "2/77" in line


@pytest.mark.parametrize("form", logs.FORMATS)
def test_exception_stays_on_the_events_line(form: str) -> None:
    stream = written(form)
    try:
        raise ValueError("bug")
    except ValueError:
        logs.get("link").exception("broken")
    assert len(stream.getvalue().splitlines()) == 1
    assert "ValueError" in stream.getvalue()


@pytest.mark.parametrize("form", logs.FORMATS)
@pytest.mark.parametrize("name", sorted(logs.SECRET_KEYS))
def test_secret_is_never_written(form: str, name: str) -> None:
    stream = written(form)
    logs.get("ibc").info("message_sent", **{name: "hush"}, payload=b"hush")
    assert "hush" not in stream.getvalue()
    assert "4 bytes" in stream.getvalue()


def test_event_below_the_level_is_dropped() -> None:
    stream = written("json", "warning")
    logs.get("link").info("quiet")
    logs.get("link").warning("loud")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["loud"]


def test_logger_made_before_configuration_follows_it() -> None:
    log = logs.get("early")
    stream = written("json")
    log.info("late")
    event = json.loads(stream.getvalue())
    assert (event["event"], event["component"], event["level"]) == ("late", "early", "info")


def test_library_writes_in_the_same_form_without_its_insides() -> None:
    stream = written("json", "debug")
    logging.getLogger("grpc").debug("poll")
    logging.getLogger("grpc").error("broken pipe")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["broken pipe"]
