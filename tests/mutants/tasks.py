"""Mutants of the task runner."""

from tests.mutants.catalogue import Mutant

RUNS = "tests/unit/services/snapshot/test_task_runs.py"
LEAVINGS = "tests/unit/services/snapshot/test_task_leavings.py"
COMMAND = "tests/unit/services/snapshot/test_task_command.py"
CATALOGUE = "tests/unit/services/snapshot/test_task_catalogue.py"

TASKS = (
    Mutant(
        "message sent although prefreeze failed",
        "services/snapshot/tasks/run.py",
        "            if not half.is_alive:\n                raise FailedPrecondition(",
        "            if False:\n                raise FailedPrecondition(",
        f"{RUNS}::test_row_prefreeze_fails_nothing_is_sent",
    ),
    Mutant(
        "revoked quiesce counts as success (C17)",
        "services/snapshot/tasks/run.py",
        "if judgement.state != record_pb2.Outcome.STATE_CONFIRMED:",
        "if False:",
        f"{RUNS}::test_row_hold_broke_the_secondary_side_is_finished",
    ),
    Mutant(
        "send repeated under another request id (C3)",
        "services/snapshot/tasks/run.py",
        'request_id=f"{self._notes.record.id}-send",',
        'request_id="",',
        f"{RUNS}::test_lost_answer_of_the_send_is_asked_for_again",
    ),
    Mutant(
        "onfreeze done at another's message",
        "services/snapshot/tasks/half.py",
        "if delivered.name == message:",
        "if True:",
        f"{RUNS}::test_message_of_an_interrupted_run_is_unfrozen_and_not_worked_on",
    ),
    Mutant(
        "step goes on when the freeze has ended",
        "services/snapshot/tasks/half.py",
        "await first_of(doing, self._lease.over)",
        "await first_of(doing)",
        f"{RUNS}::test_freeze_that_ends_under_a_step_ends_the_step",
    ),
    Mutant(
        "export not noted before it is made",
        "services/snapshot/tasks/actions.py",
        "self._notes.leave(Remainder(Kind.EXPORT,",
        "str(Remainder(Kind.EXPORT,",
        f"{RUNS}::test_freeze_task_does_the_cycle_in_the_contracts_order",
    ),
    Mutant(
        "freeze of another holder ended",
        "services/snapshot/tasks/leavings.py",
        "return freeze.holder == self._notes.holder",
        "return True",
        f"{LEAVINGS}::test_freeze_of_another_holder_is_left_alone",
    ),
    Mutant(
        "name taken back under a later run",
        "services/snapshot/runs.py",
        "earlier.remains = [row for row in earlier.remains if row not in names_left]",
        "pass",
        f"{LEAVINGS}::test_run_takes_over_names_that_an_earlier_one_still_takes_back",
    ),
    Mutant(
        "offspring of a command lives on",
        "services/snapshot/tasks/warden.py",
        "left = _end_descendants()",
        "left = 0",
        f"{COMMAND}::test_program_that_forks_leaves_nothing_behind",
    ),
    Mutant(
        "command outlives its service",
        "services/snapshot/tasks/warden.py",
        "if 0 in ready and not os.read(0, 4096):",
        "if False:",
        f"{COMMAND}::test_program_does_not_outlive_a_service_that_is_killed",
    ),
    Mutant(
        "commands run as root unasked",
        "services/snapshot/tasks/command.py",
        'UNPRIVILEGED = "nobody"',
        'UNPRIVILEGED = "root"',
        f"{COMMAND}::test_service_of_root_runs_programs_as_nobody",
    ),
    Mutant(
        "bad file keeps the task it was before",
        "services/snapshot/tasks/catalogue.py",
        "return _Read(signature, None, _unreadable(file, error).problem)\n"
        "    return _Read(signature, None, problem)",
        "return _Read(signature, None, _unreadable(file, error).problem)\n"
        '    return _Read(signature, Task(name=f"tasks/{file.parent.name}"), None)',
        f"{CATALOGUE}::test_a_bad_file_takes_away_its_own_task_only",
    ),
)
