"""Transcripts of both sides of a link; rewritten with `pytest tests/scenarios --rewrite`.

A scenario is a file of blocks: a command line, `----`, and what it printed. Commands:

    write <n> [tag]         n records become durable on the Primary
    writer <n>              n records become durable while regions are read, 3 at a time
    run                     both sides work until they rest
    fault <kind>...         of the next requests: drop, duplicate or pass
    cut | unreachable | reachable
    tick <seconds>          time passes, in steps of a tenth of a second
    trim                    the Primary's log keeps nothing
    overflow                the Primary is about to trim past the link
    freeze | thaw           of the replica
    capacity <bytes>        of the Secondary's log
    lose <n>                the Secondary loses its last n records
    rollback <n>            the Primary restarts from a copy that lacks its last n records
    restart                 the Primary restarts: its log goes on with a Start record
    fence <epoch>           the Secondary learns of a higher epoch
    retry | pause | discard the operator acts
    status
"""

from pathlib import Path

import pytest

from slackwater.link.settings import SenderSettings
from tests.scenarios.link_pair import BLOCK, CONSISTENT, FROZEN, LinkPair

FOLDER = Path(__file__).parent
SETTINGS = SenderSettings(
    slice_bytes=1500,
    small_slice_bytes=1000,
    window_bytes=6000,
    region_bytes=BLOCK * 8,
    region_window_bytes=BLOCK * 16,
)


def carry_out(pair: LinkPair, line: str) -> list[str]:
    """Carry one command out and return what it printed."""
    command, *arguments = line.split()
    primary, secondary, sender = pair.primary, pair.secondary, pair.sender
    match command:
        case "write":
            for _ in range(int(arguments[0])):
                primary.write(arguments[1] if len(arguments) > 1 else "w")
            pair.advance()
        case "run":
            pair.settle()
        case "fault":
            pair.faults.extend("" if kind == "pass" else kind for kind in arguments)
        case "writer":
            pair.writes_during_sync = int(arguments[0])
        case "cut":
            pair.cut()
        case "unreachable" | "reachable":
            pair.reachable = command == "reachable"
        case "tick":
            for _ in range(round(float(arguments[0]) * 10)):
                pair.tick(0.1)
                pair.settle()
        case "trim":
            primary.oldest = primary.durable.offset
            pair.advance()
        case "overflow":
            sender.overflow()
        case "freeze":
            secondary.state = FROZEN
        case "thaw":
            secondary.state = CONSISTENT
            secondary.apply()
        case "capacity":
            secondary.capacity = int(arguments[0])
        case "lose":
            del secondary.log[-int(arguments[0]) :]
            secondary.applied = 0
            secondary.volume.data[:] = bytes(len(secondary.volume.data))
            secondary.apply()
        case "rollback":
            keep = len(primary.framed) - int(arguments[0])
            del primary.framed[keep:], primary.points[keep + 1 :]
            primary.in_volumes = 0
            primary.volume.data[:] = bytes(len(primary.volume.data))
            primary.settle()
            primary.oldest = min(primary.oldest, primary.durable.offset)
            primary.starts = [one for one in primary.starts if one.lsn <= keep]
            pair.row = pair.row.__class__(acked=primary.durable.position)
            pair.restart_primary()
        case "restart":
            pair.restart_primary()
        case "fence":
            secondary.epoch = int(arguments[0])
        case "retry":
            sender.retry()
        case "pause":
            sender.pause()
        case "discard":
            sender.allow_discard()
        case "status":
            pair.lines.append(pair.status())
        case _:
            raise AssertionError(f"no command {command}")
    return pair.take_lines()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_transcript_is_as_recorded(path: Path, request: pytest.FixtureRequest) -> None:
    pair = LinkPair(SETTINGS, log_bytes=100_000)
    recorded = path.read_text()
    out = []
    for block in recorded.split("\n\n"):
        head = block.split("\n----")[0].strip("\n")
        comments = [line for line in head.split("\n") if line.startswith("#")]
        commands = [line for line in head.split("\n") if line and not line.startswith("#")]
        printed = [text for command in commands for text in carry_out(pair, command)]
        lines = comments + commands
        if commands:
            lines += ["----", *(printed or ["ok"])]
        out.append("\n".join(lines))
    text = "\n\n".join(part for part in out if part) + "\n"
    if request.config.getoption("--rewrite", default=False):
        path.write_text(text)
        return
    assert text == recorded
