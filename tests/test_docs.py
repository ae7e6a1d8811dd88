"""The docs list every flag, exit code, reason code, schema field and recipe key."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from imitate.cli import app
from imitate.contract import REASONS, Exit
from imitate.schema import TABLES


def commands(command: Any, name: str = "imitate") -> dict[str, Any]:
    """Every command that does something, by its full name."""
    if not hasattr(command, "commands"):
        return {name: command}
    found: dict[str, Any] = {}
    for child, below in sorted(command.commands.items()):
        found |= commands(below, f"{name} {child}")
    return found


COMMANDS = commands(typer.main.get_command(app))


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_flag_is_documented_under_its_command(repository: Path, name: str) -> None:
    text = (repository / "docs" / "reference" / "commands.md").read_text()
    part = re.search(rf"^## `{re.escape(name)}`$(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert part, f"{name} has no section in commands.md"
    flags = [
        flag
        for option in COMMANDS[name].params
        if option.param_type_name == "option"
        for flag in [*option.opts, *option.secondary_opts]
        if flag.startswith("--") and flag != "--help"
    ]
    assert [flag for flag in flags if f"`{flag}`" not in part[1]] == []
    documented = set(re.findall(r"^\| `(--[a-z-]+)`", part[1], re.M))
    assert documented <= set(flags), f"{documented - set(flags)} are documented but do not exist"


def test_every_schema_field_is_documented(repository: Path) -> None:
    text = (repository / "docs" / "reference" / "formats.md").read_text()
    rows = [f"| `{f.name}` | {f.type} | {f.text} |" for table in TABLES for f in table.fields]
    assert [row for row in rows if row not in text] == []


def test_every_reason_and_exit_code_is_documented(repository: Path) -> None:
    text = (repository / "docs" / "reference" / "reasons.md").read_text()
    rows = [f"| `{r.code}` | {r.kind} | {r.text} |" for r in REASONS.values()]
    assert [row for row in rows if row not in text] == []
    assert [code for code in Exit if f"| {int(code)} |" not in text] == []


def leaves(value: object, prefix: str = "") -> set[str]:
    if not isinstance(value, dict):
        return {prefix}
    return {
        leaf
        for key, below in value.items()
        for leaf in leaves(below, f"{prefix}.{key}" if prefix else str(key))
    }


def test_every_recipe_key_is_documented(repository: Path) -> None:
    text = (repository / "docs" / "reference" / "recipes.md").read_text()
    for path in (repository / "train" / "recipes").glob("*.yaml"):
        keys = leaves(yaml.safe_load(path.read_text()))
        assert [key for key in keys if f"`{key}`" not in text] == [], path.name


def test_links_between_pages_lead_somewhere(repository: Path) -> None:
    for page in [*repository.glob("*.md"), *(repository / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
