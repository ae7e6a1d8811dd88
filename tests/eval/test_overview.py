"""The words that a page has for its numbers."""

from imitate.eval.boxes import MEASURES as BOXES
from imitate.eval.masks import MEASURES as MASKS
from imitate.eval.masks import POINTING
from imitate.eval.metrics import METRICS, TOP1
from imitate.eval.report.overview import MEANINGS, general, glossary
from imitate.eval.retrieval.ranks import MEASURES as RANKS
from imitate.page import Table

MASKED = tuple(f"{name}{kind}" for name in MASKS for kind in ("", "-all", "-batches"))
ALL = (*METRICS, TOP1, *MASKED, *POINTING, *BOXES, *RANKS)


def test_every_number_has_a_meaning_and_no_meaning_is_left_over() -> None:
    assert {general(name) for name in ALL} == set(MEANINGS)


def test_the_table_names_what_the_page_shows_once() -> None:
    (table,) = glossary(["r@10", "auroc", "auroc"]).blocks
    assert isinstance(table, Table)
    assert table.rows == (("r@10", MEANINGS["r@K"]), ("auroc", MEANINGS["auroc"]))
