"""What an option names on this machine's disks is never made of an address in an object store."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args, get_type_hints

from pipelines.cli.app import _COMMANDS, _TABLES
from pipelines.cli.options import local_path


def kinds(annotation: Any) -> set[Any]:
    return {annotation, *(kind for part in get_args(annotation) for kind in kinds(part))}


def test_no_option_is_a_path_without_a_look_at_what_it_names() -> None:
    checked = set()
    for name, command in (_COMMANDS | _TABLES).items():
        for option, hint in get_type_hints(command, include_extras=True).items():
            if Path in kinds(hint):
                parsers = [getattr(part, "parser", None) for part in kinds(hint)]
                assert local_path in parsers, f"{name} {option} makes a local path of any address"
                checked.add(f"{name} {option}")
    assert {"train config", "evaluate report", "export file", "demo output", "label data"} <= checked
