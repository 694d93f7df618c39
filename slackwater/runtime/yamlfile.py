"""Definitions in YAML: a file mirrors a message of the API, and an error names its line.

Keys are the message's fields; a duration is written `30s`, an enum by its word (`FREEZE`), a
message as a mapping. Nothing is guessed: an unknown key, a number where text belongs, a key given
twice or an alias is refused, with what to write instead.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, TypeVar

import yaml
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from slackwater.errors import InvalidRequest

M = TypeVar("M", bound=Message)

FILE_LIMIT_BYTES = 256 << 10
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_WHOLE = frozenset(
    {
        FieldDescriptor.TYPE_UINT32,
        FieldDescriptor.TYPE_UINT64,
        FieldDescriptor.TYPE_INT32,
        FieldDescriptor.TYPE_INT64,
    }
)


class BadFile(Exception):
    """A file that is no definition.

    Attributes:
        line: Line of the file, from 1; 0: none.
        field: The field, empty if it is no field's.
        problem: What is wrong and what to write instead.
    """

    def __init__(self, line: int, field: str, problem: str, next_step: str = "") -> None:
        """Say where, what, and what to do."""
        self.line = line
        self.field = field
        self.problem = f"{problem}. {next_step}" if next_step else problem
        super().__init__(f"line {line}: {field}: {self.problem}")


class Lines:
    """The line at which each field of a file stands."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._lines: dict[str, int] = {}

    def note(self, field: str, node: yaml.Node) -> None:
        """Keep where a field stands."""
        self._lines[field] = _line(node)

    def of(self, field: str) -> int:
        """Return the line of a field, or of what it stands in; 0: not known."""
        while field and field not in self._lines:
            field = field[: max(field.rfind("."), field.rfind("["), 0)]
        return self._lines.get(field, 0)

    def bad(self, error: InvalidRequest) -> BadFile:
        """Return an error of the message's own check with the line of its field."""
        return BadFile(self.of(error.field), error.field, error.problem, error.next_step)


def read(text: str, message: M, refused: Mapping[str, str]) -> Lines:
    """Fill `message` from a file.

    Args:
        text: What the file holds.
        message: An empty message.
        refused: Fields of it that a file does not give, with the reason.

    Raises:
        BadFile: see above; `message` is then of no use.
    """
    lines = Lines()
    node = _compose(text)
    if node is None:
        raise BadFile(0, "", "the file is empty", "docs/tasks.md has an example")
    for name, reason in refused.items():
        for key, _ in _pairs(node, ""):
            if key.value == name:
                raise BadFile(_line(key), name, reason, "Leave it out")
    _fill(message, node, "", lines)
    return lines


def _compose(text: str) -> yaml.Node | None:
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise BadFile(
                    _marked(event.start_mark), "", "aliases are not taken", "Spell it out"
                )
        return yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = " ".join(word for word in (error.context, error.problem) if word)
        raise BadFile(_marked(mark), "", f"it is no YAML: {words}") from error
    except yaml.YAMLError as error:
        raise BadFile(0, "", f"it is no YAML: {error}") from error


def _fill(message: Message, node: yaml.Node, at: str, lines: Lines) -> None:
    """Set the fields of a message from a mapping; an empty value is an empty message."""
    if _is_null(node):
        return
    seen: set[str] = set()
    for key, value in _pairs(node, at):
        name = key.value
        field = _field(message.DESCRIPTOR, key, at)
        path = f"{at}.{name}" if at else name
        lines.note(path, key)
        if name in seen:
            raise BadFile(_line(key), path, "is given twice", "Keep one of the two")
        seen.add(name)
        choice = field.containing_oneof
        if choice is not None and (taken := message.WhichOneof(choice.name)):
            one = f"Give one of {_words(choice.fields)}"
            raise BadFile(_line(key), path, f"{taken} is given already", one)
        if field.is_repeated:
            _fill_list(message, field, value, path, lines)
        else:
            _fill_one(message, field, value, path, lines)


def _fill_list(
    message: Message, field: FieldDescriptor, node: yaml.Node, path: str, lines: Lines
) -> None:
    if not isinstance(node, yaml.SequenceNode):
        raise BadFile(_line(node), path, "is not a list", "Write [one, two], or a line with - each")
    entries = getattr(message, field.name)
    for number, item in enumerate(node.value):
        here = f"{path}[{number}]"
        lines.note(here, item)
        if field.type != FieldDescriptor.TYPE_MESSAGE:
            entries.append(_scalar(field, item, here))
        elif isinstance(item, yaml.ScalarNode) and not _is_null(item):
            # `- snapshot` is short for `- snapshot: {}`.
            _fill_one(
                entries.add(), _field(field.message_type, item, here), _null(item), here, lines
            )
        else:
            _fill(entries.add(), item, here, lines)


def _fill_one(
    message: Message, field: FieldDescriptor, node: yaml.Node, path: str, lines: Lines
) -> None:
    if field.type != FieldDescriptor.TYPE_MESSAGE:
        setattr(message, field.name, _scalar(field, node, path))
        return
    part = getattr(message, field.name)
    part.SetInParent()
    if isinstance(part, Duration):
        part.FromNanoseconds(_nanoseconds(node, path))
    elif isinstance(node, yaml.SequenceNode) and len(part.DESCRIPTOR.fields) == 1:
        # `command: [a, b]` is short for `command: {arguments: [a, b]}`.
        _fill_list(part, part.DESCRIPTOR.fields[0], node, path, lines)
    else:
        _fill(part, node, path, lines)


def _field(descriptor: Any, key: yaml.Node, at: str) -> FieldDescriptor:
    """Return the field of a message's descriptor that a key names."""
    field: FieldDescriptor | None = descriptor.fields_by_name.get(key.value)
    if field is None:
        known = [row.name for row in descriptor.fields]
        near = difflib.get_close_matches(str(key.value), known, 1)
        advice = f"Did you mean {near[0]}?" if near else f"Known are {_words(descriptor.fields)}"
        path = f"{at}.{key.value}" if at else str(key.value)
        raise BadFile(_line(key), path[:200], "there is no such key", advice)
    return field


def _pairs(node: yaml.Node, at: str) -> Iterator[tuple[yaml.ScalarNode, yaml.Node]]:
    if not isinstance(node, yaml.MappingNode):
        raise BadFile(_line(node), at, "is not a mapping", "Write key: value, one a line")
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise BadFile(_line(key), at, "a key is not a word", "Write key: value")
        yield key, value


def _scalar(field: FieldDescriptor, node: yaml.Node, path: str) -> Any:
    if not isinstance(node, yaml.ScalarNode):
        raise BadFile(_line(node), path, "is not a single value", "Write one value after the colon")
    kind = node.tag.rpartition(":")[2]
    if field.type == FieldDescriptor.TYPE_STRING:
        return _text(node, kind, path)
    if field.type == FieldDescriptor.TYPE_BOOL:
        if kind != "bool":
            _refuse(node, path, "is neither true nor false", "Write true or false")
        return node.value.lower() in ("true", "yes", "on")
    if field.type == FieldDescriptor.TYPE_ENUM:
        return _enum(field, node, path)
    assert field.type in _WHOLE, f"a file has no fields like {field.name}"
    if not node.value.isdecimal() or int(node.value) >= 1 << 31:
        _refuse(node, path, "is no number from 0 to 2147483647", "Write digits alone")
    return int(node.value)


def _text(node: yaml.ScalarNode, kind: str, path: str) -> str:
    if kind == "null":
        _refuse(node, path, "has no value", "Write one, or leave the key out")
    if kind != "str":
        _refuse(node, path, "is not text for YAML", f'Write it in quotes: "{node.value}"')
    return str(node.value)


def _enum(field: FieldDescriptor, node: yaml.ScalarNode, path: str) -> int:
    enum = field.enum_type
    assert enum is not None, "a field of an enum has one"
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    numbers = {row.name.removeprefix(prefix): row.number for row in enum.values if row.number}
    if node.value.upper() not in numbers:
        _refuse(node, path, "is not one of its words", f"Write one of {', '.join(numbers)}")
    return numbers[node.value.upper()]


def _nanoseconds(node: yaml.Node, path: str) -> int:
    text = node.value if isinstance(node, yaml.ScalarNode) else ""
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        _refuse(node, path, "is no length of time", "Write it with its unit, for example 30s or 5m")
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if seconds > 10_000 * 86_400:
        _refuse(node, path, "is longer than 10000 days")
    return round(seconds * 1e9)


def _refuse(node: yaml.Node, path: str, problem: str, next_step: str = "") -> NoReturn:
    value = str(node.value) if isinstance(node, yaml.ScalarNode) else ""
    shown = repr(value if len(value) <= 60 else value[:57] + "...") + " " if value else ""
    raise BadFile(_line(node), path, f"{shown}{problem}", next_step)


def _words(fields: Any) -> str:
    return ", ".join(row.name for row in fields)


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null")


def _null(node: yaml.Node) -> yaml.ScalarNode:
    return yaml.ScalarNode("tag:yaml.org,2002:null", "", node.start_mark, node.end_mark)


def _line(node: yaml.Node) -> int:
    return _marked(node.start_mark)


def _marked(mark: Any) -> int:
    """Return the line of a mark, from 1; 0 without a mark."""
    return int(mark.line) + 1 if mark else 0
