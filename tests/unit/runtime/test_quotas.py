"""Quotas count what is there and what is under way."""

import pytest

from slackwater.errors import QuotaExceeded
from slackwater.runtime.quotas import Quotas
from slackwater.runtime.roles import EVERYTHING, Grant, Identity, Role

LAB = Identity("lab", (Grant(Role.OPERATE, ("lab-*",), 10),))


def quotas(**held: int) -> Quotas:
    return Quotas(Role.OPERATE, lambda: {name.replace("_", "-"): held[name] for name in held})


def test_what_is_planned_counts_until_it_is_forgotten() -> None:
    made = quotas(lab_a=2)
    made.plan(LAB, "lab-b", 8, "size_bytes")
    with pytest.raises(QuotaExceeded):
        made.plan(LAB, "lab-c", 1, "size_bytes")
    made.forget("lab-b")
    made.plan(LAB, "lab-c", 8, "size_bytes")


def test_refused_plan_leaves_the_one_before() -> None:
    made = quotas()
    made.plan(LAB, "lab-a", 6, "size_bytes")
    with pytest.raises(QuotaExceeded):
        made.plan(LAB, "lab-a", 11, "size_bytes")
    made.plan(LAB, "lab-b", 4, "size_bytes")
    with pytest.raises(QuotaExceeded):
        made.plan(LAB, "lab-b", 5, "size_bytes")


def test_group_counts_with_the_larger_of_what_it_has_and_what_is_planned() -> None:
    made = quotas(lab_a=6)
    made.note("lab-a", 2)  # volumes that go are still there
    with pytest.raises(QuotaExceeded):
        made.plan(LAB, "lab-b", 5, "size_bytes")


def test_adding_counts_on_top_of_what_the_group_has() -> None:
    made = quotas(lab_a=6)
    with made.adding(LAB, "lab-a", 4, "size_bytes"):
        with pytest.raises(QuotaExceeded):
            made.plan(LAB, "lab-b", 1, "size_bytes")
    with pytest.raises(QuotaExceeded), made.adding(LAB, "lab-a", 5, "size_bytes"):
        raise AssertionError("it was let in")
    made.plan(LAB, "lab-b", 4, "size_bytes")


def test_caller_without_a_quota_has_no_bound() -> None:
    quotas(lab_a=6).plan(EVERYTHING, "lab-a", 1 << 60, "size_bytes")
