"""Tasks in YAML: what a file may say, and that an error names line, field and remedy."""

import pytest

from services.snapshot.tasks import model
from slackwater.errors import InvalidRequest
from slackwater.runtime import yamlfile
from slackwater.v1 import common_pb2, snapshot_pb2

WHOLE = """
group: groups/demo
application: db
behaviour: freeze
quiesce:
  applications: [db]
  timeout: 1m30s
  max_hold: 500ms
fence: false
prefreeze:
  - command: [prepare.sh]
onfreeze:
  - snapshot
  - name: dump
    command: {arguments: [dump.sh, "1"]}
    timeout: 5s
postfreeze:
  - fsck: {volumes: [data]}
  - export:
links: [site-b, site-c]
body: nightly
retention: {keep_last: 3, keep_daily: 7}
snapshot_prefix: night
"""


def read(text: str) -> snapshot_pb2.Task:
    """As the catalogue reads it."""
    task = snapshot_pb2.Task(name="tasks/nightly")
    lines = yamlfile.read(text, task, {"name": "the directory's name is the task's name"})
    try:
        model.check(task, "")
    except InvalidRequest as error:
        raise lines.bad(error) from error
    return task


def test_every_field_of_a_task_can_be_given() -> None:
    task = read(WHOLE)
    assert task.group == "groups/demo"
    assert task.behaviour == common_pb2.MESSAGE_BEHAVIOUR_FREEZE
    assert task.quiesce.applications == ["db"]
    assert task.quiesce.timeout.ToMilliseconds() == 90_000
    assert task.quiesce.max_hold.ToMilliseconds() == 500
    assert task.HasField("fence")
    assert not task.fence
    assert task.prefreeze[0].command.arguments == ["prepare.sh"]
    assert task.onfreeze[0].WhichOneof("action") == "snapshot"
    assert task.onfreeze[1].command.arguments == ["dump.sh", "1"]
    assert (task.onfreeze[1].name, task.onfreeze[1].timeout.seconds) == ("dump", 5)
    assert task.postfreeze[0].fsck.volumes == ["data"]
    assert task.postfreeze[1].WhichOneof("action") == "export"
    assert task.links == ["site-b", "site-c"]
    assert (task.body, task.snapshot_prefix) == ("nightly", "night")
    assert (task.retention.keep_last, task.retention.keep_daily) == (3, 7)


@pytest.mark.parametrize(
    ("text", "line", "field", "words"),
    [
        ("", 0, "", "docs/tasks.md"),
        ("a: b: c", 1, "", "it is no YAML"),
        ("group: [", 1, "", "it is no YAML"),
        ("- x", 1, "", "key: value"),
        ("[a]: b", 1, "", "is not a word"),
        ("\ngrop: x", 2, "grop", "Did you mean group?"),
        ("name: x", 1, "name", "the directory's name"),
        ("group: groups/a\ngroup: groups/b", 2, "group", "given twice"),
        ("group: demo", 1, "group", "groups/<group>"),
        ("body: &x a\nsnapshot_prefix: *x", 2, "", "aliases"),
        ("body: 5", 1, "body", '"5"'),
        ("body:", 1, "body", "has no value"),
        ("body: [a]", 1, "body", "single value"),
        ("links: a", 1, "links", "not a list"),
        ("links:\n  - a\n  - a", 3, "links[1]", "twice"),
        ("fence: 1", 1, "fence", "true or false"),
        ("step_timeout: 5", 1, "step_timeout", "30s"),
        ("step_timeout: 0s", 1, "step_timeout", "more than 0"),
        ("fence_timeout: 2m", 1, "fence_timeout", "at most 60 s"),
        ("step_timeout: 99999999d", 1, "step_timeout", "longer"),
        ("behaviour: freez", 1, "behaviour", "FREEZE, NOTIFY, SNAPSHOT"),
        ("behaviour: FREEZE", 1, "behaviour", "snapshot step"),
        ("behaviour: NOTIFY\nonfreeze: [snapshot]", 2, "onfreeze", "never stands"),
        ("onfreeze:\n  - snapshoot", 2, "onfreeze[0].snapshoot", "Did you mean snapshot?"),
        ("onfreeze:\n  - snapshot\n  - snapshot", 3, "onfreeze[1].snapshot", "one snapshot"),
        ("postfreeze: [snapshot]", 1, "postfreeze[0].snapshot", "Move it to onfreeze"),
        ("prefreeze:\n\n  - export", 3, "prefreeze[0].export", "Move it to postfreeze"),
        ("behaviour: NOTIFY\npostfreeze: [fsck]", 2, "postfreeze[0].fsck", "no snapshot"),
        (
            "onfreeze: [command: [a]]\npostfreeze:\n  - export",
            3,
            "postfreeze[0].export",
            "snapshot step into onfreeze",
        ),
        ("postfreeze:\n  - timeout: 3s", 2, "postfreeze[0]", "snapshot, export, fsck, command"),
        ("postfreeze:\n  - {command: [a], export: }", 2, "postfreeze[0].export", "already"),
        ("postfreeze:\n  - command: []", 2, "postfreeze[0].command.arguments", "names no program"),
        (
            "postfreeze:\n  - command: [/bin/sh]",
            2,
            "postfreeze[0].command.arguments[0]",
            "outside the task's directory",
        ),
        (
            "postfreeze:\n  - command: [a/../../b]",
            2,
            "postfreeze[0].command.arguments[0]",
            "outside the task's directory",
        ),
        ("postfreeze:\n  - name: A B\n    export:", 2, "postfreeze[0].name", "is not a name"),
        ("retention: {keep_last: -1}", 1, "retention.keep_last", "digits"),
        ("retention: {}", 1, "retention", "keeps nothing"),
        ("quiesce:\n  max_hold: 1s", 1, "quiesce.applications", "names nobody"),
        ("quiesce: [db]", 1, "quiesce", "key: value"),
        (f"snapshot_prefix: {'a' * 41}", 1, "snapshot_prefix", "longer than 40"),
    ],
)
def test_what_a_file_gets_wrong_is_said_with_its_line(
    text: str, line: int, field: str, words: str
) -> None:
    with pytest.raises(yamlfile.BadFile) as caught:
        read(text)
    assert (caught.value.line, caught.value.field) == (line, field)
    assert words in caught.value.problem


def test_what_was_left_out_gets_its_default() -> None:
    task = model.effective(read("postfreeze: [export]\nquiesce: {applications: [db]}"))
    assert task.application == "nightly"
    assert task.snapshot_prefix == "nightly"
    assert task.behaviour == common_pb2.MESSAGE_BEHAVIOUR_SNAPSHOT
    assert task.fence
    assert (task.fence_timeout.seconds, task.deliver_timeout.seconds) == (1, 600)
    assert (task.quiesce.timeout.seconds, task.quiesce.max_hold.seconds) == (30, 10)
    assert (task.postfreeze[0].name, task.postfreeze[0].timeout.seconds) == ("export", 300)
    frozen = model.effective(read("onfreeze: [snapshot]\nstep_timeout: 7s"))
    assert frozen.behaviour == common_pb2.MESSAGE_BEHAVIOUR_FREEZE
    assert not frozen.fence
    assert frozen.onfreeze[0].timeout.seconds == 7
