"""Constants and structures of the NBD protocol, as its proto.md names them; no logic.

All integers are big-endian. Names keep the protocol's words without the ``NBD_`` prefix.
"""

import struct
from typing import Final

# Greeting and options: fixed newstyle negotiation.
GREETING_MAGIC: Final = b"NBDMAGIC"
OPTION_MAGIC: Final = b"IHAVEOPT"
OPTION_REPLY_MAGIC: Final = 0x0003_E889_0455_65A9
GREETING: Final = struct.Struct(">8s8sH")  # magic, option magic, handshake flags
CLIENT_FLAGS: Final = struct.Struct(">I")
OPTION: Final = struct.Struct(">8sII")  # magic, option, length
OPTION_REPLY: Final = struct.Struct(">QIII")  # magic, option, reply type, length
EXPORT_NAME_REPLY: Final = struct.Struct(">QH")  # size, transmission flags
EXPORT_NAME_ZEROES: Final = 124

FLAG_FIXED_NEWSTYLE: Final = 1 << 0
FLAG_NO_ZEROES: Final = 1 << 1

OPT_EXPORT_NAME: Final = 1
OPT_ABORT: Final = 2
OPT_LIST: Final = 3
OPT_STARTTLS: Final = 5
OPT_INFO: Final = 6
OPT_GO: Final = 7
OPT_STRUCTURED_REPLY: Final = 8
OPT_LIST_META_CONTEXT: Final = 9
OPT_SET_META_CONTEXT: Final = 10

REP_ACK: Final = 1
REP_SERVER: Final = 2
REP_INFO: Final = 3
REP_META_CONTEXT: Final = 4
REP_FLAG_ERROR: Final = 1 << 31
REP_ERR_UNSUP: Final = REP_FLAG_ERROR | 1
REP_ERR_POLICY: Final = REP_FLAG_ERROR | 2
REP_ERR_INVALID: Final = REP_FLAG_ERROR | 3
REP_ERR_TLS_REQD: Final = REP_FLAG_ERROR | 5
REP_ERR_UNKNOWN: Final = REP_FLAG_ERROR | 6
REP_ERR_SHUTDOWN: Final = REP_FLAG_ERROR | 7
REP_ERR_TOO_BIG: Final = REP_FLAG_ERROR | 9

INFO_EXPORT: Final = 0
INFO_NAME: Final = 1
INFO_DESCRIPTION: Final = 2
INFO_BLOCK_SIZE: Final = 3
INFO_EXPORT_REPLY: Final = struct.Struct(">HQH")  # type, size, transmission flags
INFO_BLOCK_SIZE_REPLY: Final = struct.Struct(">HIII")  # type, minimum, preferred, maximum
INFO_TYPE: Final = struct.Struct(">H")
LENGTH32: Final = struct.Struct(">I")
COUNT16: Final = struct.Struct(">H")

MAX_STRING: Final = 4096  # the protocol's bound on names, descriptions and queries
BASE_ALLOCATION: Final = "base:allocation"
BASE_ALLOCATION_ID: Final = 1

# Transmission.
REQUEST_MAGIC: Final = 0x2560_9513
SIMPLE_REPLY_MAGIC: Final = 0x6744_6698
CHUNK_MAGIC: Final = 0x668E_33EF
REQUEST: Final = struct.Struct(">IHHQQI")  # magic, flags, type, cookie, offset, length
SIMPLE_REPLY: Final = struct.Struct(">IIQ")  # magic, error, cookie
CHUNK: Final = struct.Struct(">IHHQI")  # magic, flags, type, cookie, length
OFFSET_DATA: Final = struct.Struct(">IHHQIQ")  # a chunk's head, then the data's offset
OFFSET_HOLE: Final = struct.Struct(">IHHQIQI")  # a chunk's head, then offset and length
ERROR_CHUNK: Final = struct.Struct(">IHHQIIH")  # a chunk's head, then error, message length
BLOCK_DESCRIPTOR: Final = struct.Struct(">II")  # length, status flags
OFFSET: Final = struct.Struct(">Q")

FLAG_HAS_FLAGS: Final = 1 << 0
FLAG_READ_ONLY: Final = 1 << 1
FLAG_SEND_FLUSH: Final = 1 << 2
FLAG_SEND_FUA: Final = 1 << 3
FLAG_SEND_TRIM: Final = 1 << 5
FLAG_SEND_WRITE_ZEROES: Final = 1 << 6
FLAG_SEND_DF: Final = 1 << 7
FLAG_CAN_MULTI_CONN: Final = 1 << 8
FLAG_SEND_CACHE: Final = 1 << 10
FLAG_SEND_FAST_ZERO: Final = 1 << 11

CMD_READ: Final = 0
CMD_WRITE: Final = 1
CMD_DISC: Final = 2
CMD_FLUSH: Final = 3
CMD_TRIM: Final = 4
CMD_CACHE: Final = 5
CMD_WRITE_ZEROES: Final = 6
CMD_BLOCK_STATUS: Final = 7
COMMAND_NAMES: Final = (
    "read",
    "write",
    "disconnect",
    "flush",
    "trim",
    "cache",
    "write_zeroes",
    "block_status",
)

CMD_FLAG_FUA: Final = 1 << 0
CMD_FLAG_NO_HOLE: Final = 1 << 1
CMD_FLAG_DF: Final = 1 << 2
CMD_FLAG_REQ_ONE: Final = 1 << 3
CMD_FLAG_FAST_ZERO: Final = 1 << 4

REPLY_FLAG_DONE: Final = 1 << 0
REPLY_TYPE_NONE: Final = 0
REPLY_TYPE_OFFSET_DATA: Final = 1
REPLY_TYPE_OFFSET_HOLE: Final = 2
REPLY_TYPE_BLOCK_STATUS: Final = 5
REPLY_TYPE_FLAG_ERROR: Final = 1 << 15
REPLY_TYPE_ERROR: Final = REPLY_TYPE_FLAG_ERROR | 1

STATE_HOLE: Final = 1 << 0
STATE_ZERO: Final = 1 << 1

MAX_PAYLOAD: Final = 32 << 20  # what every client may assume when nothing else was said


class ProtocolError(Exception):
    """The peer broke the protocol in a way that only ending the connection answers.

    Attributes:
        problem: what was wrong, as a clause.
    """

    def __init__(self, problem: str) -> None:
        """Keeps the problem as a field."""
        super().__init__(f"NBD protocol error: {problem}")
        self.problem = problem
