"""The documentation says what the code does."""

from __future__ import annotations

from pathlib import Path

from fqdnwall.api import reference as models
from fqdnwall.api.app import make_app
from fqdnwall.cli import reference as commands
from tests.api.fake import FakeBackend

DOCS = Path(__file__).parents[2] / "docs"


def test_the_reference_of_commands_is_their_help() -> None:
    assert (DOCS / "cli.md").read_text() == commands.reference()


def test_the_reference_of_models_is_their_source() -> None:
    assert (DOCS / "api-models.md").read_text() == models.reference()


def test_every_path_of_the_api_is_documented() -> None:
    page = (DOCS / "api.md").read_text()
    for route in make_app(FakeBackend()).routes:
        for method in route.methods - {"HEAD"}:
            assert f"`{method} {route.path}`" in page
