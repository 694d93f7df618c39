"""Mutants of schedules and retention."""

from tests.mutants.catalogue import Mutant

SCHEDULES = "tests/unit/services/snapshot/test_schedules.py"
RETENTION = "tests/unit/services/snapshot/test_retention.py"
TASK_COMMANDS = "tests/unit/cli/test_tasks.py"

TIMES = (
    Mutant(
        "start repeated under another request id",
        "services/snapshot/schedules/keeper.py",
        'request_id=f"{schedule.name}/{due.moment}",',
        'request_id="",',
        f"{SCHEDULES}::test_a_start_that_a_crash_kept_from_being_noted_is_not_made_again",
    ),
    Mutant(
        "start made up for that nobody asked for",
        "services/snapshot/schedules/keeper.py",
        "late_limit = catch_up if is_first else",
        "late_limit = 1e9 if is_first else",
        f"{SCHEDULES}::test_a_start_while_the_service_was_down_is_missed",
    ),
    Mutant(
        "time decided about again when the clock is set back",
        "services/snapshot/schedules/timetable.py",
        "return first if last - now > BACK_LIMIT_SECONDS else cursor",
        "return first",
        f"{SCHEDULES}::test_a_clock_set_back_starts_nothing_twice",
    ),
    Mutant(
        "schedule stands still when the clock is set back by years",
        "services/snapshot/schedules/timetable.py",
        "return first if last - now > BACK_LIMIT_SECONDS else cursor",
        "return cursor",
        f"{SCHEDULES}::test_a_clock_set_back_by_years_does_not_stop_a_schedule",
    ),
    Mutant(
        "retention deletes what has the name by now",
        "services/snapshot/retention/sweeper.py",
        "if snapshot is None or snapshot.message != row.message:",
        "if snapshot is None:",
        f"{RETENTION}::test_a_name_that_is_somebody_elses_by_now_is_left_alone",
    ),
    Mutant(
        "retention deletes what is held",
        "services/snapshot/retention/sweeper.py",
        "if snapshot.held:",
        "if False:",
        f"{RETENTION}::test_what_is_held_or_exported_stays_until_it_is_not",
    ),
    Mutant(
        "retention deletes what is exported",
        "services/snapshot/retention/sweeper.py",
        "if snapshot.exported:",
        "if False:",
        f"{RETENTION}::test_what_is_held_or_exported_stays_until_it_is_not",
    ),
    Mutant(
        "revoked snapshot pushes the confirmed one out",
        "services/snapshot/retention/made.py",
        "return is_done and (replica.confirmed or not is_quiesced)",
        "return is_done",
        f"{RETENTION}::test_a_quiesce_that_was_revoked_does_not_push_the_confirmed_one_out",
    ),
    Mutant(
        "command succeeds although a Secondary did not",
        "slackwater/cli/commands/tasks/shown.py",
        "if run.state == Run.STATE_SUCCEEDED and not bad:",
        "if run.state == Run.STATE_SUCCEEDED:",
        f"{TASK_COMMANDS}::test_success_wants_every_secondary",
    ),
)
