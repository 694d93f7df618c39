"""The record of what is held, and the order of record, guard and kind."""

import threading
from pathlib import Path

import pytest

from slackwater.agent import holding as module
from slackwater.agent.holding import Holding
from slackwater.agent.keeper import Request
from slackwater.agent.kinds.kind import KindFailed, Patience, Resumption, Undo
from slackwater.agent.ledger import Entry, Ledger
from slackwater.errors import FailedPrecondition

ASKED = Request("h1", 30.0, 10.0, "backup")
UNDO = {"kind": "fsfreeze", "paths": []}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(tmp_path / "state", "demo", "backup")
    made.prepare()
    return made


class Journal:
    """A kind, and a guard, that write down what is done in which order."""

    name = "command"
    hold_id = "h1"

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.lines: list[str] = []
        self.failure = ""

    def note(self, word: str) -> None:
        self.lines.append(f"{word}{' recorded' if self.ledger.read() is not None else ''}")

    def check(self) -> None: ...

    def undo(self, request: Request) -> Undo | None:
        return UNDO

    def hold(self, request: Request, patience: Patience) -> str:
        self.note("hold")
        if self.failure:
            raise KindFailed(self.failure)
        return "held"

    def resume(self, request: Request, message: str, patience: Patience) -> Resumption:
        self.note("resume")
        if self.failure:
            raise KindFailed(self.failure)
        return Resumption(True, "on")

    def forget(self) -> None:
        self.note("forget")


@pytest.fixture
def journal(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Journal:
    journal = Journal(ledger)

    class Guarding:
        pid = 1

        def __init__(self, *about: object) -> None:
            journal.note("guard")

        def hold_for(self, seconds: float) -> None:
            journal.note(f"guard for {seconds:g} s")

        def dismiss(self) -> None:
            journal.note("dismissed")

    monkeypatch.setattr(module, "Guarding", Guarding)
    return journal


def holding_of(journal: Journal) -> Holding:
    return Holding(journal, journal.ledger, 30.0, lambda: None)


def test_hold_is_recorded_and_guarded_first_and_the_guard_outlives_the_resume(
    journal: Journal,
) -> None:
    holding = holding_of(journal)
    assert holding.hold(ASKED, Patience(30)) == "held"
    assert holding.resume(ASKED, "m") == Resumption(True, "on")
    assert journal.lines == [
        "guard recorded",
        "hold recorded",
        "guard for 10 s recorded",
        "resume recorded",
        "dismissed",
    ]


def test_resume_that_failed_stays_recorded_and_guarded(journal: Journal) -> None:
    holding = holding_of(journal)
    holding.hold(ASKED, Patience(30))
    journal.failure = "no"
    with pytest.raises(KindFailed):
        holding.resume(ASKED, "")
    assert journal.ledger.read() is not None
    assert "dismissed" not in journal.lines


def test_hold_that_cannot_be_recorded_is_not_begun(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(entry: Entry) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal.ledger, "write", full)
    with pytest.raises(KindFailed, match=r"cannot record the hold: .*No space left"):
        holding_of(journal).hold(ASKED, Patience(30))
    assert journal.lines == []


def test_hold_that_the_guard_ended_is_not_resumed_twice_nor_called_unbroken(
    journal: Journal,
) -> None:
    holding = holding_of(journal)
    holding.hold(ASKED, Patience(30))
    journal.ledger.write(Entry("h1", dict(UNDO), "guard", "the agent did not resume in time"))
    resumption = holding.resume(ASKED, "m")
    assert not resumption.unbroken
    assert resumption.answer == "its guard resumed it: the agent did not resume in time"
    assert "resume recorded" not in journal.lines and "forget recorded" in journal.lines
    assert journal.ledger.read() is None


def test_recovery_undoes_what_is_recorded_and_strikes_it(journal: Journal) -> None:
    holding = holding_of(journal)
    assert holding.recover() == ""
    journal.ledger.write(Entry("h7", dict(UNDO)))
    assert holding.recover() == "hold h7 was recorded as held; nothing was frozen"
    assert journal.ledger.read() is None


def test_recovery_leaves_alone_what_the_guard_resumed(journal: Journal) -> None:
    journal.ledger.write(Entry("h7", {"kind": "unknown"}, "guard", "the agent is gone"))
    found = holding_of(journal).recover()
    assert found == "the guard had resumed hold h7: the agent is gone"
    assert journal.ledger.read() is None


def test_recovery_keeps_a_record_that_it_cannot_undo(journal: Journal) -> None:
    journal.ledger.write(Entry("h7", {"kind": "unknown"}))
    with pytest.raises(KindFailed, match="unknown kind: 'unknown'"):
        holding_of(journal).recover()
    journal.ledger.write(Entry("h7", {"kind": "command"}))
    with pytest.raises(KindFailed, match="damaged"):
        holding_of(journal).recover()
    assert journal.ledger.read() is not None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"hold_id": "h"}', '{"format": 2}', "null"])
def test_damaged_record_is_told_and_kept(ledger: Ledger, text: str) -> None:
    path = ledger.directory / "demo.backup.json"
    path.write_text(text)
    with pytest.raises(FailedPrecondition, match=r"cannot understand .*demo.backup.json") as told:
        ledger.read()
    assert "remove the file" in told.value.next_step
    assert path.exists()


def test_record_of_a_later_format_is_not_guessed_at(ledger: Ledger) -> None:
    ledger.write(Entry("h1", {}, format=2))
    with pytest.raises(FailedPrecondition, match="format 2"):
        ledger.read()


def test_record_is_for_this_user_alone(ledger: Ledger) -> None:
    ledger.write(Entry("h1", {"environment": {}}))
    assert ledger.directory.stat().st_mode & 0o777 == 0o700
    assert (ledger.directory / "demo.backup.json").stat().st_mode & 0o777 == 0o600


def test_state_directory_that_others_can_write_into_is_refused(tmp_path: Path) -> None:
    """What stands in it is run at the next start."""
    open_directory = tmp_path / "open"
    open_directory.mkdir()
    open_directory.chmod(0o777)
    with pytest.raises(FailedPrecondition, match="others can write"):
        Ledger(open_directory, "demo", "backup").prepare()
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(FailedPrecondition, match="cannot use"):
        Ledger(blocked / "below", "demo", "backup").prepare()


def test_one_owner_and_one_actor_at_a_time(ledger: Ledger) -> None:
    with ledger.owned() as first, ledger.owned() as second:
        assert (first, second) == (True, False)
    with ledger.owned() as again:
        assert again
    entered = threading.Event()
    with ledger.acting(1.0) as alone:
        assert alone

        def act() -> None:
            with ledger.acting(30.0) as then_alone:
                assert then_alone
                entered.set()

        thread = threading.Thread(target=act)
        thread.start()
        with ledger.acting(0.0) as other:
            assert not other, "to resume twice is better than not at all"
        assert not entered.is_set()
    thread.join(30)
    assert entered.is_set()
