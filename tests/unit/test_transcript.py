"""What a page shows as output, and what counts as it."""

from tests.support import transcript

PAGE = """
```sh
one
```
```json
{
  "a": "..."
}
```

```sh
two
```

```
not run
```
"""


def test_blocks_have_the_output_that_follows_them_at_once() -> None:
    first, second = transcript.blocks(PAGE)
    assert first == transcript.Block("one\n", '{\n  "a": "..."\n}\n')
    assert second == transcript.Block("two\n", None)


def test_dots_stand_for_a_part_of_a_line_or_for_lines() -> None:
    shown = '{\n  "a": "...",\n  ...\n  "z": 1\n}\n'
    assert transcript.is_like(shown, '{\n  "a": "x",\n  "b": 2,\n  "c": 3,\n  "z": 1 \n}\n\n')
    assert transcript.is_like(shown, '{\n  "a": "",\n  "z": 1\n}')
    assert not transcript.is_like(shown, '{\n  "a": 5,\n  "z": 1\n}')
    assert not transcript.is_like(shown, '{\n  "a": "x",\n  "z": 2\n}')
    assert not transcript.is_like("one.two", "one-two")
