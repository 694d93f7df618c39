"""A connection string may hold a password: what cannot be read of it is not repeated either."""

import pytest

from slackwater.agent.kinds.kind import KindFailed
from slackwater.agent.kinds.postgres import Postgres

SECRET = "hunter2"


@pytest.mark.parametrize(
    "dsn",
    [
        f"host=localhost password=very {SECRET}",
        f"postgresql://app:%zz{SECRET}@localhost/db",
        f"host=localhost password='{SECRET}",
        f'host=localhost pass"{SECRET}=1',
        f"host=localhost {SECRET}=x",
    ],
)
def test_string_that_cannot_be_read_is_refused_without_a_word_of_it(dsn: str) -> None:
    with pytest.raises(KindFailed) as refused:
        Postgres(dsn).check()
    assert SECRET not in str(refused.value)
    assert "connection string" in str(refused.value)
