"""Test that the pictures of docs/beam.md show the current steps of the pipelines."""

from __future__ import annotations

import html
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture(scope="module")
def draw_graphs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_graphs", DOCS / "draw_graphs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["job", "fleet"])
def test_the_docs_pictures_show_the_current_pipeline_steps(name: str, draw_graphs: ModuleType) -> None:
    dot = getattr(draw_graphs, f"{name}_graph")()
    picture = (DOCS / "images" / f"beam-{name}.svg").read_text()
    drawn = [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", picture)]
    assert sorted(drawn) == sorted(filter(None, re.findall(r'label="([^"]*)"', dot)))
