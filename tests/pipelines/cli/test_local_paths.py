"""Test that each option for a local path has the parser `local_path`, which refuses store addresses."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_type_hints

from pipelines.cli.app import _COMMANDS, _TABLES
from pipelines.cli.options import local_path


def nested_types(annotation: Any) -> set[Any]:
    """Return an annotation and all types and metadata nested in it."""
    return {annotation, *(nested for part in get_args(annotation) for nested in nested_types(part))}


def test_every_option_for_a_local_path_refuses_store_addresses() -> None:
    checked = set()
    for name, command in (_COMMANDS | _TABLES).items():
        for option, hint in get_type_hints(command, include_extras=True).items():
            if Path in nested_types(hint):
                parsers = [getattr(part, "parser", None) for part in nested_types(hint)]
                assert local_path in parsers, f"{name} {option} accepts an address as a local path"
                checked.add(f"{name} {option}")
    assert {"train config", "evaluate report", "export file", "demo output", "label data"} <= checked
