"""Test that `unseal` accepts each record that `seal` wrote, also with whole-number keys and tuples."""

from __future__ import annotations

from typing import Any

import pytest

from schemas.sealed import seal, unseal


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({9: "a", 10: "b"}, {"9": "a", "10": "b"}),
        ({"offsets": {9: 1, 10: 2, 2: 3}}, {"offsets": {"9": 1, "10": 2, "2": 3}}),
        ({"mixed": {1: "a", "b": 2}}, {"mixed": {"1": "a", "b": 2}}),
        ({"parts": (1, 2)}, {"parts": [1, 2]}),
    ],
)
def test_unseal_reads_keys_as_text_and_tuples_as_lists(
    record: dict[Any, Any], expected: dict[str, Any]
) -> None:
    assert unseal(seal(record)) == expected
