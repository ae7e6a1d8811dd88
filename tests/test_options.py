"""The options all commands share."""

import json

import pytest

from imitate.contract import TooManyFaults, UsageError
from imitate.options import FaultBudget, reasons_text, say


@pytest.mark.parametrize(
    ("text", "faults", "total", "fits"),
    [
        ("0", 0, 10, True),
        ("0", 1, 10, False),
        ("3", 3, 10, True),
        ("10%", 1, 10, True),
        ("10%", 2, 10, False),
        ("0.5%", 1, 200, True),
    ],
)
def test_fault_budget(text: str, faults: int, total: int, *, fits: bool) -> None:
    budget = FaultBudget.parse(text)
    if fits:
        budget.check(faults, total)
    else:
        with pytest.raises(TooManyFaults, match=f"{faults} of {total}"):
            budget.check(faults, total)


@pytest.mark.parametrize("text", ["", "many", "-1", "5 %", "1e3"])
def test_fault_budget_refuses_other_text(text: str) -> None:
    with pytest.raises(UsageError):
        FaultBudget.parse(text)


def test_result_is_one_json_document_or_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    say({"b": 1, "a": 2}, "done", as_json=True)
    assert json.loads(capsys.readouterr().out) == {"a": 2, "b": 1}
    say({}, "done", as_json=False)
    assert capsys.readouterr().out == "done\n"


def test_reasons_most_frequent_first() -> None:
    assert reasons_text({"a": 1, "c": 3, "b": 3}) == "3 b, 3 c, 1 a"
    assert reasons_text({}) == "none"
