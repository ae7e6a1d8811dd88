"""The statistics of evaluations as they are read on a terminal."""

from imitate.eval.statistics.lines import comparison_lines
from imitate.schema import COMPARISONS

ROW = dict.fromkeys(COMPARISONS.names) | {"task": "linear", "fraction": 1.0, "metric": "auroc"}


def test_pairs_without_a_difference_are_left_out() -> None:
    unmeasured = ROW | {"encoder": "run", "other": "random"}
    measured = ROW | {"encoder": "run", "other": "no-pixels", "difference": 0.25}
    assert comparison_lines([]) == comparison_lines([unmeasured]) == []
    head, line = comparison_lines([unmeasured, measured])
    assert head.startswith("paired difference") and line.startswith("run - no-pixels")
