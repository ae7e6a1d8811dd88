"""The contract: keys, errors and their exit codes, reasons, folders."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imitate import contract
from imitate.contract import (
    REASONS,
    ConfigError,
    Exit,
    Folders,
    ImitateError,
    InputError,
    Reject,
    Stopped,
    TooManyFaults,
    UsageError,
    key_of,
)
from imitate.schema import TABLES


@given(st.text(min_size=1))
def test_key_holds_only_safe_characters_and_keeps_the_length(image_id: str) -> None:
    key = key_of(image_id)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", key)
    assert len(key) == len(image_id)
    assert key_of(key) == key


def test_a_dicom_uid_keeps_all_its_parts_in_the_key() -> None:
    assert key_of("1.2.840.113") == "1-2-840-113"


def test_exit_codes_of_the_exception_tree() -> None:
    codes = {
        ImitateError: 70,
        UsageError: 2,
        ConfigError: 2,
        InputError: 3,
        TooManyFaults: 1,
        Stopped: 130,
    }
    for kind, code in codes.items():
        assert kind.code == code
        assert issubclass(kind, ImitateError)
    assert Stopped("x", terminated=True).code == Exit.TERMINATED == 143


def test_message_says_what_where_and_what_to_do() -> None:
    error = InputError("split list not found", where="/a/b", todo="download it")
    assert str(error) == "split list not found (/a/b)\n  download it"


def test_config_error_lists_every_problem() -> None:
    text = str(ConfigError(["unknown key loss.tau", "optim.lr must be a number"]))
    assert "loss.tau" in text and "optim.lr" in text


def test_reject_refuses_an_unknown_reason() -> None:
    assert Reject("truncated").reason == "truncated"
    with pytest.raises(KeyError):
        Reject("no such reason")


def test_reasons_are_filed_under_their_code() -> None:
    assert all(code == reason.code for code, reason in REASONS.items())
    assert {reason.kind for reason in REASONS.values()} == {"filter", "fault"}


def test_tables_have_unique_columns_with_a_meaning() -> None:
    for table in TABLES:
        assert len(set(table.names)) == len(table.names)
        assert all(field.text for field in table.fields)


def test_folders_list_only_finished_sets(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    done, half = folders.prepared("b"), folders.prepared("a")
    for folder in (done, half):
        folder.mkdir(parents=True)
    (done / "card.json").touch()
    assert folders.names("prepared") == ["b"]
    assert folders.names("runs") == []


def test_contract_needs_only_the_standard_library() -> None:
    text = Path(contract.__file__).read_text()
    imported = set(re.findall(r"^(?:from|import) (\w+)", text, re.M))
    light = {"collections", "dataclasses", "enum", "errno", "pathlib", "re", "typing"}
    assert imported <= light | {"__future__"}
