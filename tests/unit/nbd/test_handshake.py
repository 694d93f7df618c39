"""The server's handshake: every option, every refusal, every split of the bytes."""

import struct
from collections.abc import Callable, Iterator

import pytest

from slackwater import errors
from slackwater.nbd import wire
from slackwater.nbd.export import Export, Listing
from slackwater.nbd.handshake import (
    MAX_OPTION_BYTES,
    MAX_OPTIONS,
    MAX_SKIPPED_BYTES,
    Handshake,
    Phase,
    TlsMode,
)
from tests.support.memory_export import MemoryExport

FLAGS = struct.pack(">I", 3)
NAME = "groups/g/volumes/v"
READ_WRITE_FLAGS = 0x0001 | 0x0004 | 0x0008 | 0x0020 | 0x0040 | 0x0100 | 0x0400 | 0x0800
SEND_DF = 0x0080


class Shelf:
    """A directory of one export."""

    def __init__(self, export: Export | None = None) -> None:
        self.export = export or MemoryExport(1 << 20)
        self.failure: errors.SlackwaterError | OSError | None = None

    def listing(self) -> list[Listing]:
        return [Listing(NAME, "a volume in memory"), Listing("other")]

    def open(self, name: str) -> Export:
        if self.failure is not None:
            raise self.failure
        if name != self.export.name:
            raise errors.NotFound("export", name)
        return self.export


def option(number: int, data: bytes = b"") -> bytes:
    return b"IHAVEOPT" + struct.pack(">II", number, len(data)) + data


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack(">I", len(data)) + data


def info(name: str | bytes, *kinds: int) -> bytes:
    return string(name) + struct.pack(f">H{len(kinds)}H", len(kinds), *kinds)


def contexts(name: str, *queries: str) -> bytes:
    return string(name) + struct.pack(">I", len(queries)) + b"".join(map(string, queries))


def replies(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Option, reply type and body of each option reply."""
    while data:
        magic, number, kind, length = struct.unpack_from(">QIII", data)
        assert magic == 0x0003E889045565A9
        yield number, kind, data[20 : 20 + length]
        data = data[20 + length :]


class Client:
    """Feeds a handshake and collects what it says."""

    def __init__(self, shelf: Shelf | None = None, tls: TlsMode = TlsMode.OFF) -> None:
        self.handshake = Handshake(shelf or Shelf(), tls)
        self.greeting = self.handshake.data_to_send()
        self.handshake.receive(FLAGS)
        assert self.handshake.data_to_send() == b""

    @property
    def phase(self) -> Phase:
        return self.handshake.phase

    def ask(self, number: int, data: bytes = b"") -> list[tuple[int, bytes]]:
        self.handshake.receive(option(number, data))
        answers = list(replies(self.handshake.data_to_send()))
        assert all(answered == number for answered, _, _ in answers)
        return [(kind, body) for _, kind, body in answers]

    def refusal(self, number: int, data: bytes = b"") -> int:
        ((kind, message),) = self.ask(number, data)
        assert message.decode(), "a refusal carries a sentence"
        assert self.handshake.phase is Phase.NEGOTIATING
        return kind


class TestGreeting:
    def test_server_greets_with_fixed_newstyle_and_no_zeroes(self) -> None:
        assert Client().greeting == b"NBDMAGICIHAVEOPT\x00\x03"

    def test_client_with_unknown_flags_is_hung_up_on(self) -> None:
        handshake = Handshake(Shelf())
        with pytest.raises(wire.ProtocolError, match="client flags"):
            handshake.receive(struct.pack(">I", 7))
        assert handshake.phase is Phase.CLOSED

    def test_option_without_its_magic_is_hung_up_on(self) -> None:
        client = Client()
        with pytest.raises(wire.ProtocolError, match="IHAVEOPT"):
            client.handshake.receive(b"IHAVEOPX" + bytes(8))

    def test_feeding_a_closed_handshake_is_a_programmers_error(self) -> None:
        client = Client()
        client.ask(wire.OPT_ABORT)
        with pytest.raises(AssertionError):
            client.handshake.receive(b"x")


class TestGoAndInfo:
    def test_go_answers_export_info_in_these_very_bytes(self) -> None:
        client = Client()
        client.handshake.receive(option(wire.OPT_GO, info(NAME)))
        assert client.handshake.data_to_send() == bytes.fromhex(
            "0003e889045565a9 00000007 00000003 0000000c"
            f"0000 0000000000100000 {READ_WRITE_FLAGS:04x}"
            "0003e889045565a9 00000007 00000001 00000000"
        )
        assert client.handshake.phase is Phase.TRANSMITTING
        assert client.handshake.export is not None
        assert client.handshake.export.name == NAME
        assert not client.handshake.is_structured
        assert not client.handshake.has_block_status

    def test_info_answers_all_that_was_asked_and_stays_in_negotiation(self) -> None:
        client = Client()
        answers = client.ask(wire.OPT_INFO, info(NAME, 1, 2, 3, 99))
        assert answers == [
            (wire.REP_INFO, struct.pack(">HQH", 0, 1 << 20, READ_WRITE_FLAGS)),
            (wire.REP_INFO, b"\x00\x01" + NAME.encode()),
            (wire.REP_INFO, b"\x00\x02a volume in memory"),
            (wire.REP_INFO, struct.pack(">HIII", 3, 1, 4096, 32 << 20)),
            (wire.REP_ACK, b""),
        ]
        assert client.handshake.phase is Phase.NEGOTIATING

    def test_read_only_export_without_multi_conn_says_so(self) -> None:
        shelf = Shelf(MemoryExport(512, read_only=True, multi_conn=False))
        ((_, body), _) = Client(shelf).ask(wire.OPT_INFO, info(NAME))
        assert struct.unpack(">HQH", body) == (0, 512, 0x0001 | 0x0002 | 0x0004 | 0x0400)

    def test_structured_replies_bring_the_df_flag(self) -> None:
        client = Client()
        assert client.ask(wire.OPT_STRUCTURED_REPLY) == [(wire.REP_ACK, b"")]
        ((_, body), _) = client.ask(wire.OPT_GO, info(NAME))
        assert struct.unpack(">HQH", body)[2] == READ_WRITE_FLAGS | SEND_DF
        assert client.handshake.is_structured

    @pytest.mark.parametrize(
        ("failure", "reply"),
        [
            (errors.NotFound("export", "x"), wire.REP_ERR_UNKNOWN),
            (errors.PermissionDenied("export"), wire.REP_ERR_POLICY),
            (errors.Unavailable("the service"), wire.REP_ERR_SHUTDOWN),
            (errors.InvalidRequest("name", "is no name"), wire.REP_ERR_INVALID),
            (errors.GroupFailed("g", "sync failed"), wire.REP_ERR_POLICY),
            (OSError(5, "broken"), wire.REP_ERR_POLICY),
        ],
    )
    def test_export_that_cannot_be_had_is_refused_with_its_reason(
        self, failure: errors.SlackwaterError | OSError, reply: int
    ) -> None:
        shelf = Shelf()
        shelf.failure = failure
        assert Client(shelf).ask(wire.OPT_GO, info(NAME)) == [(reply, str(failure).encode())]

    @pytest.mark.parametrize(
        ("data", "reply"),
        [
            pytest.param(b"", wire.REP_ERR_INVALID, id="empty"),
            pytest.param(b"\0\0\0", wire.REP_ERR_INVALID, id="cut length"),
            pytest.param(struct.pack(">I", 50) + b"x", wire.REP_ERR_INVALID, id="name past end"),
            pytest.param(string(NAME), wire.REP_ERR_INVALID, id="no count"),
            pytest.param(string(NAME) + b"\0\1", wire.REP_ERR_INVALID, id="count past end"),
            pytest.param(info(NAME) + b"x", wire.REP_ERR_INVALID, id="rest"),
            pytest.param(info(b"\xff\xfe"), wire.REP_ERR_INVALID, id="no UTF-8"),
            pytest.param(info("n" * 4097), wire.REP_ERR_TOO_BIG, id="name too long"),
            pytest.param(info("n" * 4096), wire.REP_ERR_UNKNOWN, id="longest name"),
        ],
    )
    def test_malformed_go_is_refused_and_negotiation_goes_on(self, data: bytes, reply: int) -> None:
        client = Client()
        assert client.refusal(wire.OPT_GO, data) == reply
        assert client.ask(wire.OPT_GO, info(NAME))[-1] == (wire.REP_ACK, b"")

    def test_bytes_behind_go_are_kept_for_transmission(self) -> None:
        client = Client()
        client.handshake.receive(option(wire.OPT_GO, info(NAME)) + b"request")
        assert client.handshake.trailing_data() == b"request"


class TestExportName:
    def test_export_name_is_answered_without_zeroes_if_the_client_agreed(self) -> None:
        client = Client()
        client.handshake.receive(option(wire.OPT_EXPORT_NAME, NAME.encode()))
        assert client.handshake.data_to_send() == struct.pack(">QH", 1 << 20, READ_WRITE_FLAGS)
        assert client.handshake.phase is Phase.TRANSMITTING

    def test_export_name_sends_124_zeroes_to_an_old_client(self) -> None:
        handshake = Handshake(Shelf())
        handshake.data_to_send()
        handshake.receive(struct.pack(">I", 1) + option(wire.OPT_EXPORT_NAME, NAME.encode()))
        assert handshake.data_to_send()[10:] == bytes(124)

    @pytest.mark.parametrize("name", [b"unknown", b"\xff", b"n" * 4097])
    def test_bad_export_name_is_a_hang_up(self, name: bytes) -> None:
        client = Client()
        with pytest.raises(wire.ProtocolError, match="EXPORT_NAME"):
            client.handshake.receive(option(wire.OPT_EXPORT_NAME, name))
        assert client.handshake.phase is Phase.CLOSED


class TestOtherOptions:
    def test_list_names_every_export_with_its_description(self) -> None:
        assert Client().ask(wire.OPT_LIST) == [
            (wire.REP_SERVER, string(NAME) + b"a volume in memory"),
            (wire.REP_SERVER, string("other")),
            (wire.REP_ACK, b""),
        ]

    def test_abort_is_acknowledged_and_ends_it(self) -> None:
        client = Client()
        assert client.ask(wire.OPT_ABORT) == [(wire.REP_ACK, b"")]
        assert client.handshake.phase is Phase.CLOSED

    @pytest.mark.parametrize("number", [0, 4, 11, 12345, 0xFFFFFFFF])
    def test_unknown_option_is_unsupported_and_its_data_is_passed_over(self, number: int) -> None:
        client = Client()
        assert client.refusal(number, b"data") == wire.REP_ERR_UNSUP
        assert client.ask(wire.OPT_GO, info(NAME))[-1] == (wire.REP_ACK, b"")

    @pytest.mark.parametrize("number", [wire.OPT_LIST, wire.OPT_STRUCTURED_REPLY])
    def test_option_without_data_refuses_data(self, number: int) -> None:
        assert Client().refusal(number, b"x") == wire.REP_ERR_INVALID

    def test_oversized_option_is_refused_without_being_held(self) -> None:
        client = Client()
        handshake = client.handshake
        length = MAX_OPTION_BYTES + 1
        handshake.receive(b"IHAVEOPT" + struct.pack(">II", wire.OPT_GO, length))
        for _ in range(length // 1024):
            handshake.receive(bytes(1024))
            assert handshake.trailing_data() == b""
        assert handshake.data_to_send() == b""
        handshake.receive(bytes(length % 1024) + option(wire.OPT_LIST))
        kinds = [kind for _, kind, _ in replies(handshake.data_to_send())]
        assert kinds == [wire.REP_ERR_TOO_BIG, wire.REP_SERVER, wire.REP_SERVER, wire.REP_ACK]

    @pytest.mark.parametrize(
        ("number", "length"),
        [
            (wire.OPT_GO, MAX_SKIPPED_BYTES + 1),
            (wire.OPT_GO, 0xFFFFFFFF),
            (wire.OPT_EXPORT_NAME, MAX_OPTION_BYTES + 1),
        ],
    )
    def test_absurd_option_is_hung_up_on(self, number: int, length: int) -> None:
        client = Client()
        with pytest.raises(wire.ProtocolError, match=f"of {length} bytes"):
            client.handshake.receive(b"IHAVEOPT" + struct.pack(">II", number, length))

    def test_options_without_end_are_hung_up_on(self) -> None:
        client = Client()
        with pytest.raises(wire.ProtocolError, match="more than"):
            for _ in range(MAX_OPTIONS):
                client.ask(99)


class TestMetaContext:
    @pytest.fixture
    def client(self) -> Client:
        client = Client()
        client.ask(wire.OPT_STRUCTURED_REPLY)
        return client

    def test_set_agrees_on_base_allocation_for_the_export_chosen(self, client: Client) -> None:
        answers = client.ask(wire.OPT_SET_META_CONTEXT, contexts(NAME, "x:y", "base:allocation"))
        assert answers == [
            (wire.REP_META_CONTEXT, b"\0\0\0\x01base:allocation"),
            (wire.REP_ACK, b""),
        ]
        client.ask(wire.OPT_GO, info(NAME))
        assert client.handshake.has_block_status

    def test_set_without_a_known_query_agrees_on_nothing(self, client: Client) -> None:
        client.ask(wire.OPT_SET_META_CONTEXT, contexts(NAME, "base:allocation"))
        answers = client.ask(wire.OPT_SET_META_CONTEXT, contexts(NAME, "base:", "x:y"))
        assert answers == [(wire.REP_ACK, b"")]
        client.ask(wire.OPT_GO, info(NAME))
        assert not client.handshake.has_block_status

    def test_contexts_of_another_export_do_not_carry_over(self) -> None:
        class Pair(Shelf):
            def open(self, name: str) -> Export:
                return MemoryExport(512, name=name)

        client = Client(Pair())
        client.ask(wire.OPT_STRUCTURED_REPLY)
        client.ask(wire.OPT_SET_META_CONTEXT, contexts("one", "base:allocation"))
        client.ask(wire.OPT_GO, info("two"))
        assert not client.handshake.has_block_status

    @pytest.mark.parametrize("queries", [(), ("base:",), ("base:allocation",)])
    def test_list_shows_base_allocation(self, client: Client, queries: tuple[str, ...]) -> None:
        answers = client.ask(wire.OPT_LIST_META_CONTEXT, contexts(NAME, *queries))
        assert answers[0] == (wire.REP_META_CONTEXT, b"\0\0\0\0base:allocation")
        client.ask(wire.OPT_GO, info(NAME))
        assert not client.handshake.has_block_status

    def test_list_of_another_namespace_is_empty(self, client: Client) -> None:
        answers = client.ask(wire.OPT_LIST_META_CONTEXT, contexts(NAME, "qemu:"))
        assert answers == [(wire.REP_ACK, b"")]

    def test_contexts_need_structured_replies(self) -> None:
        data = contexts(NAME, "base:allocation")
        assert Client().refusal(wire.OPT_SET_META_CONTEXT, data) == wire.REP_ERR_INVALID

    @pytest.mark.parametrize(
        ("data", "reply"),
        [
            pytest.param(string(NAME), wire.REP_ERR_INVALID, id="no count"),
            pytest.param(string(NAME) + b"\0\0\0\1", wire.REP_ERR_INVALID, id="no query"),
            pytest.param(contexts(NAME) + b"x", wire.REP_ERR_INVALID, id="rest"),
            pytest.param(string(NAME) + b"\xff" * 4, wire.REP_ERR_INVALID, id="huge count"),
            pytest.param(contexts(NAME, "q" * 4097), wire.REP_ERR_TOO_BIG, id="long query"),
            pytest.param(contexts("nobody", "base:"), wire.REP_ERR_UNKNOWN, id="unknown export"),
        ],
    )
    def test_malformed_contexts_are_refused(self, client: Client, data: bytes, reply: int) -> None:
        assert client.refusal(wire.OPT_SET_META_CONTEXT, data) == reply


class TestTls:
    def test_server_without_tls_refuses_starttls(self) -> None:
        assert Client().refusal(wire.OPT_STARTTLS) == wire.REP_ERR_POLICY

    def test_server_that_requires_tls_answers_nothing_else_before(self) -> None:
        client = Client(tls=TlsMode.REQUIRED)
        for number, data in [
            (wire.OPT_LIST, b""),
            (wire.OPT_GO, info(NAME)),
            (wire.OPT_STRUCTURED_REPLY, b""),
            (99, b""),
        ]:
            assert client.refusal(number, data) == wire.REP_ERR_TLS_REQD
        assert client.ask(wire.OPT_ABORT) == [(wire.REP_ACK, b"")]

    def test_server_that_requires_tls_hangs_up_on_export_name(self) -> None:
        client = Client(tls=TlsMode.REQUIRED)
        with pytest.raises(wire.ProtocolError, match="before TLS"):
            client.handshake.receive(option(wire.OPT_EXPORT_NAME, NAME.encode()))

    @pytest.mark.parametrize("mode", [TlsMode.OPTIONAL, TlsMode.REQUIRED])
    def test_starttls_hands_over_to_the_shell_and_negotiation_starts_again(
        self, mode: TlsMode
    ) -> None:
        client = Client(tls=mode)
        assert client.ask(wire.OPT_STARTTLS) == [(wire.REP_ACK, b"")]
        client.handshake.secured()  # which asserts that this is what the phase asks for
        assert client.refusal(wire.OPT_STARTTLS) == wire.REP_ERR_INVALID
        assert client.ask(wire.OPT_GO, info(NAME))[-1] == (wire.REP_ACK, b"")
        assert client.phase is Phase.TRANSMITTING

    def test_starttls_forgets_what_was_agreed_before(self) -> None:
        client = Client(tls=TlsMode.OPTIONAL)
        client.ask(wire.OPT_STRUCTURED_REPLY)
        client.ask(wire.OPT_SET_META_CONTEXT, contexts(NAME, "base:allocation"))
        client.ask(wire.OPT_STARTTLS)
        client.handshake.secured()
        client.ask(wire.OPT_GO, info(NAME))
        assert not client.handshake.is_structured
        assert not client.handshake.has_block_status

    def test_plaintext_behind_starttls_is_a_hang_up(self) -> None:
        client = Client(tls=TlsMode.OPTIONAL)
        with pytest.raises(wire.ProtocolError, match="plaintext"):
            client.handshake.receive(option(wire.OPT_STARTTLS) + option(wire.OPT_LIST))

    def test_starttls_takes_no_data(self) -> None:
        client = Client(tls=TlsMode.OPTIONAL)
        assert client.refusal(wire.OPT_STARTTLS, b"x") == wire.REP_ERR_INVALID

    def test_secured_without_starttls_is_a_programmers_error(self) -> None:
        with pytest.raises(AssertionError):
            Client(tls=TlsMode.OPTIONAL).handshake.secured()


WHOLE = {
    "go": FLAGS
    + option(wire.OPT_STRUCTURED_REPLY)
    + option(wire.OPT_LIST)
    + option(wire.OPT_SET_META_CONTEXT, contexts(NAME, "base:allocation"))
    + option(99, b"unknown")
    + option(wire.OPT_INFO, info("nobody"))
    + option(wire.OPT_GO, info(NAME, 1, 2, 3)),
    "export name": FLAGS + option(wire.OPT_EXPORT_NAME, NAME.encode()),
    "oversized": FLAGS + option(wire.OPT_GO, bytes(MAX_OPTION_BYTES + 1)) + option(wire.OPT_ABORT),
}


def outcome(feed: Callable[[Handshake], None]) -> tuple[bytes, Phase, bool, bool]:
    handshake = Handshake(Shelf())
    feed(handshake)
    said = handshake.data_to_send()
    return said, handshake.phase, handshake.is_structured, handshake.has_block_status


@pytest.mark.parametrize("name", WHOLE)
def test_whole_handshake_ends_the_same_however_its_bytes_are_split(name: str) -> None:
    data = WHOLE[name]
    at_once = outcome(lambda handshake: handshake.receive(data))
    assert at_once[1] is not Phase.NEGOTIATING
    cuts = range(1, len(data)) if len(data) < 1000 else [*range(1, 60), len(data) - 17]
    for cut in cuts:

        def feed(handshake: Handshake, cut: int = cut) -> None:
            handshake.receive(data[:cut])
            handshake.receive(data[cut:])

        assert outcome(feed) == at_once, f"cut at {cut}"

    def feed_single(handshake: Handshake) -> None:
        for index in range(len(data)):
            handshake.receive(data[index : index + 1])

    assert outcome(feed_single) == at_once
