"""The fixed newstyle handshake of a server, sans-I/O.

Bytes go in through `Handshake.receive`, bytes to send come out of `Handshake.data_to_send`, and
`Handshake.phase` says what the shell does next. The parser reads top to bottom like blocking code
(a generator that pauses for bytes) and may be fed any split of them.
"""

import enum
from collections.abc import Generator, Iterable
from typing import Final, Protocol

from slackwater.errors import SlackwaterError
from slackwater.nbd import wire
from slackwater.nbd.export import Export, Listing
from slackwater.nbd.status import option_reply_of
from slackwater.nbd.transmission import transmission_flags

# Longest option that is read: a name, and some dozens of info requests or queries.
MAX_OPTION_BYTES: Final = 16 << 10
# A longer one is skipped without being held and answered TOO_BIG; past this we hang up.
MAX_SKIPPED_BYTES: Final = 1 << 20
MAX_OPTIONS: Final = 4096
_KNOWN_CLIENT_FLAGS: Final = wire.FLAG_FIXED_NEWSTYLE | wire.FLAG_NO_ZEROES


class Phase(enum.Enum):
    """Where the handshake stands, seen from the shell."""

    NEGOTIATING = "negotiating"
    """Send what there is to send, then feed bytes."""
    SECURING = "securing"
    """Send what there is to send, do the TLS handshake, then call `Handshake.secured`."""
    TRANSMITTING = "transmitting"
    """Send what there is to send, then transmission begins with `Handshake.export`."""
    CLOSED = "closed"
    """Send what there is to send, then close."""


class TlsMode(enum.Enum):
    """Whether a client may or must start TLS before anything else."""

    OFF = "off"
    OPTIONAL = "optional"
    REQUIRED = "required"


class Directory(Protocol):
    """What the handshake asks about exports; already bound to one peer."""

    def listing(self) -> Iterable[Listing]:
        """The exports this peer may see."""
        ...

    def open(self, name: str) -> Export:
        """The export of that name; raises `SlackwaterError` if the peer cannot have it."""
        ...


class _OptionRefused(Exception):
    """An option is answered with an error; negotiation goes on."""

    def __init__(self, reply: int, message: str) -> None:
        super().__init__(message)
        self.reply = reply
        self.message = message


class Handshake:
    """One connection's negotiation.

    Attributes:
        phase: what the shell does next.
        export: what the client chose; set in TRANSMITTING.
        is_structured: the client asked for structured replies.
        has_block_status: base:allocation was negotiated for the chosen export.
    """

    def __init__(self, directory: Directory, tls: TlsMode = TlsMode.OFF) -> None:
        """Begins a negotiation; the greeting is the first thing to send."""
        self.phase = Phase.NEGOTIATING
        self.export: Export | None = None
        self.is_structured = False
        self.has_block_status = False
        self._directory = directory
        self._tls = tls
        self._is_secure = False
        self._contexts_of: str | None = None  # the export name base:allocation was set for
        self._sends_zeroes = True
        self._received = bytearray()
        self._to_send = bytearray(
            wire.GREETING.pack(
                wire.GREETING_MAGIC,
                wire.OPTION_MAGIC,
                wire.FLAG_FIXED_NEWSTYLE | wire.FLAG_NO_ZEROES,
            )
        )
        self._parser = self._parse()
        next(self._parser)

    def receive(self, data: bytes | memoryview) -> None:
        """Takes bytes of the client.

        Raises:
            ProtocolError: the connection must end; what is left to send may be sent first.
        """
        assert self.phase is Phase.NEGOTIATING, f"bytes were fed while {self.phase}"
        self._received += data
        try:
            next(self._parser)
        except wire.ProtocolError:
            self.phase = Phase.CLOSED
            raise
        except StopIteration:
            pass

    def secured(self) -> None:
        """TLS is up: everything agreed on before it is forgotten, as the protocol demands."""
        assert self.phase is Phase.SECURING, f"secured while {self.phase}"
        self._is_secure = True
        self.is_structured = False
        self._contexts_of = None
        self.phase = Phase.NEGOTIATING

    def data_to_send(self) -> bytes:
        """What is to be sent now; each byte is given once."""
        data = bytes(self._to_send)
        self._to_send.clear()
        return data

    def trailing_data(self) -> bytes:
        """Bytes that came after the handshake's last: the first of transmission."""
        return bytes(self._received)

    @property
    def _needs_tls(self) -> bool:
        return self._tls is TlsMode.REQUIRED and not self._is_secure

    # The parser. `yield` means: more bytes are needed.

    def _exactly(self, length: int) -> Generator[None, None, bytes]:
        while len(self._received) < length:
            yield
        data = bytes(self._received[:length])
        del self._received[:length]
        return data

    def _skip(self, length: int) -> Generator[None, None, None]:
        while length:
            if not self._received:
                yield
            dropped = min(length, len(self._received))
            del self._received[:dropped]
            length -= dropped

    def _parse(self) -> Generator[None, None, None]:
        (flags,) = wire.CLIENT_FLAGS.unpack((yield from self._exactly(wire.CLIENT_FLAGS.size)))
        if flags & ~_KNOWN_CLIENT_FLAGS:
            raise wire.ProtocolError(f"unknown client flags {flags:#x}")
        self._sends_zeroes = not flags & wire.FLAG_NO_ZEROES
        for _ in range(MAX_OPTIONS):
            head = yield from self._exactly(wire.OPTION.size)
            magic, option, length = wire.OPTION.unpack(head)
            if magic != wire.OPTION_MAGIC:
                raise wire.ProtocolError("an option does not begin with IHAVEOPT")
            if length > MAX_OPTION_BYTES:
                if length > MAX_SKIPPED_BYTES or option == wire.OPT_EXPORT_NAME:
                    raise wire.ProtocolError(f"option {option} of {length} bytes")
                yield from self._skip(length)
                self._refuse(option, wire.REP_ERR_TOO_BIG, f"more than {MAX_OPTION_BYTES} bytes")
                continue
            data = yield from self._exactly(length)
            self._answer(option, data)
            if self.phase is Phase.SECURING:
                if self._received:
                    # Bytes sent ahead of TLS could be an attacker's: never carried over.
                    raise wire.ProtocolError("plaintext follows STARTTLS")
                yield
                # `secured` was called in between: negotiation starts again, from TLS.
            elif self.phase is not Phase.NEGOTIATING:
                return
        raise wire.ProtocolError(f"more than {MAX_OPTIONS} options")

    # Answers.

    def _reply(self, option: int, reply: int, data: bytes = b"") -> None:
        self._to_send += wire.OPTION_REPLY.pack(wire.OPTION_REPLY_MAGIC, option, reply, len(data))
        self._to_send += data

    def _refuse(self, option: int, reply: int, message: str) -> None:
        self._reply(option, reply, message.encode()[: wire.MAX_STRING])

    def _answer(self, option: int, data: bytes) -> None:
        if option == wire.OPT_EXPORT_NAME:
            self._export_name(data)
            return
        try:
            self._dispatch(option, data)
        except _OptionRefused as refused:
            self._refuse(option, refused.reply, refused.message)

    def _dispatch(self, option: int, data: bytes) -> None:
        if self._needs_tls and option not in {wire.OPT_STARTTLS, wire.OPT_ABORT}:
            raise _OptionRefused(wire.REP_ERR_TLS_REQD, "start TLS first")
        match option:
            case wire.OPT_ABORT:
                self._reply(option, wire.REP_ACK)
                self.phase = Phase.CLOSED
            case wire.OPT_LIST:
                self._list(data)
            case wire.OPT_STARTTLS:
                self._start_tls(data)
            case wire.OPT_INFO | wire.OPT_GO:
                self._info(option, data)
            case wire.OPT_STRUCTURED_REPLY:
                _expect_empty(data)
                self.is_structured = True
                self._reply(option, wire.REP_ACK)
            case wire.OPT_LIST_META_CONTEXT | wire.OPT_SET_META_CONTEXT:
                self._meta_context(option, data)
            case _:
                raise _OptionRefused(wire.REP_ERR_UNSUP, f"option {option} is not known here")

    def _open(self, name: str) -> Export:
        try:
            return self._directory.open(name)
        except (SlackwaterError, OSError) as error:
            raise _OptionRefused(option_reply_of(error), str(error)) from error

    def _begin_transmission(self, name: str, export: Export) -> None:
        self.export = export
        self.has_block_status = self._contexts_of == name
        self.phase = Phase.TRANSMITTING

    def _export_name(self, data: bytes) -> None:
        """The oldest way in: it has no error reply, so every refusal is a hang-up."""
        if self._needs_tls:
            raise wire.ProtocolError("EXPORT_NAME before TLS")
        try:
            name = _text(data)
            export = self._open(name)
        except _OptionRefused as refused:
            raise wire.ProtocolError(f"EXPORT_NAME: {refused.message}") from refused
        flags = transmission_flags(export, structured=self.is_structured)
        self._to_send += wire.EXPORT_NAME_REPLY.pack(export.size, flags)
        if self._sends_zeroes:
            self._to_send += bytes(wire.EXPORT_NAME_ZEROES)
        self._begin_transmission(name, export)

    def _list(self, data: bytes) -> None:
        _expect_empty(data)
        for entry in self._directory.listing():
            name = entry.name.encode()
            body = wire.LENGTH32.pack(len(name)) + name + entry.description.encode()
            self._reply(wire.OPT_LIST, wire.REP_SERVER, body)
        self._reply(wire.OPT_LIST, wire.REP_ACK)

    def _start_tls(self, data: bytes) -> None:
        _expect_empty(data)
        if self._is_secure:
            raise _OptionRefused(wire.REP_ERR_INVALID, "TLS is on already")
        if self._tls is TlsMode.OFF:
            raise _OptionRefused(wire.REP_ERR_POLICY, "this server has no TLS")
        self._reply(wire.OPT_STARTTLS, wire.REP_ACK)
        self.phase = Phase.SECURING

    def _info(self, option: int, data: bytes) -> None:
        name, rest = _take_string(data)
        if len(rest) < wire.COUNT16.size:
            raise _OptionRefused(wire.REP_ERR_INVALID, "no count of info requests")
        (count,) = wire.COUNT16.unpack_from(rest)
        if len(rest) != wire.COUNT16.size * (1 + count):
            raise _OptionRefused(wire.REP_ERR_INVALID, "info requests do not fill the option")
        asked = {kind for (kind,) in wire.INFO_TYPE.iter_unpack(rest[wire.COUNT16.size :])}
        export = self._open(name)
        flags = transmission_flags(export, structured=self.is_structured)
        self._reply(
            option,
            wire.REP_INFO,
            wire.INFO_EXPORT_REPLY.pack(wire.INFO_EXPORT, export.size, flags),
        )
        if wire.INFO_NAME in asked:
            body = wire.INFO_TYPE.pack(wire.INFO_NAME) + export.name.encode()
            self._reply(option, wire.REP_INFO, body)
        if wire.INFO_DESCRIPTION in asked:
            body = wire.INFO_TYPE.pack(wire.INFO_DESCRIPTION) + export.description.encode()
            self._reply(option, wire.REP_INFO, body)
        if wire.INFO_BLOCK_SIZE in asked:
            body = wire.INFO_BLOCK_SIZE_REPLY.pack(
                wire.INFO_BLOCK_SIZE,
                export.minimum_block,
                export.preferred_block,
                min(export.maximum_payload, wire.MAX_PAYLOAD),
            )
            self._reply(option, wire.REP_INFO, body)
        self._reply(option, wire.REP_ACK)
        if option == wire.OPT_GO:
            self._begin_transmission(name, export)

    def _meta_context(self, option: int, data: bytes) -> None:
        is_set = option == wire.OPT_SET_META_CONTEXT
        if is_set:
            self._contexts_of = None
        if not self.is_structured:
            raise _OptionRefused(wire.REP_ERR_INVALID, "structured replies were not negotiated")
        name, rest = _take_string(data)
        if len(rest) < wire.LENGTH32.size:
            raise _OptionRefused(wire.REP_ERR_INVALID, "no count of queries")
        (count,) = wire.LENGTH32.unpack_from(rest)
        rest = rest[wire.LENGTH32.size :]
        queries = []
        for _ in range(count):  # each takes four bytes at least, so the option's size bounds it
            query, rest = _take_string(rest)
            queries.append(query)
        if rest:
            raise _OptionRefused(wire.REP_ERR_INVALID, "queries do not fill the option")
        self._open(name)
        if wire.BASE_ALLOCATION in queries or (not is_set and (not queries or "base:" in queries)):
            context = wire.BASE_ALLOCATION_ID if is_set else 0
            body = wire.LENGTH32.pack(context) + wire.BASE_ALLOCATION.encode()
            self._reply(option, wire.REP_META_CONTEXT, body)
            if is_set:
                self._contexts_of = name
        self._reply(option, wire.REP_ACK)


def _expect_empty(data: bytes) -> None:
    if data:
        raise _OptionRefused(wire.REP_ERR_INVALID, "the option takes no data")


def _text(data: bytes) -> str:
    if len(data) > wire.MAX_STRING:
        raise _OptionRefused(wire.REP_ERR_TOO_BIG, f"a string of more than {wire.MAX_STRING} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _OptionRefused(wire.REP_ERR_INVALID, "a string is not UTF-8") from error


def _take_string(data: bytes) -> tuple[str, bytes]:
    """A string with its 32-bit length before it, and what follows."""
    if len(data) < wire.LENGTH32.size:
        raise _OptionRefused(wire.REP_ERR_INVALID, "a string's length is missing")
    (length,) = wire.LENGTH32.unpack_from(data)
    stop = wire.LENGTH32.size + length
    if stop > len(data):
        raise _OptionRefused(wire.REP_ERR_INVALID, "a string reaches past the option")
    return _text(data[wire.LENGTH32.size : stop]), data[stop:]
