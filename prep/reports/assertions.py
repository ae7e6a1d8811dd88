"""What a sentence says of each finding: present, absent, uncertain, or nothing.

One pass from left to right. A cue ("no", "may represent") opens a scope that holds for the findings
behind it until a word that ends it ("but", "which"), the end of a list, or another cue. A cue that
looks back ("is not seen") holds for the findings before it in the same clause.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .lexicon import COMMA, END, Lexicon, Term

PRESENT, ABSENT, UNCERTAIN = 1.0, 0.0, -1.0
UNSTATED = None  # history and questions: nothing is said of this film

Value = float | None


@dataclass(slots=True)
class Assertion:
    """A label, and what is said of it."""

    label: str
    value: Value


def read_assertions(sentence: str, lexicon: Lexicon) -> list[Assertion]:
    """Return what a sentence says, finding by finding; time is linear in its length."""
    terms = lexicon.terms(sentence)
    return _Reader(lexicon, terms).read() if terms else []


@dataclass(slots=True)
class _Reader:
    """What is known between two terms of a sentence."""

    lexicon: Lexicon
    terms: list[Term]
    said: list[Assertion] = field(default_factory=list)
    scope: Value = PRESENT
    lasting: bool = False  # the scope holds beyond commas
    clause: int = 0  # index in `said` of the first finding that a cue may look back on
    subjects: list[str] = field(default_factory=list)  # those that no state was said of yet
    state: Term | None = None  # said before its subject, as in "normal heart"
    state_scope: Value = PRESENT
    joined: list[bool] = field(default_factory=list)  # whether "or" joins more to a term's list
    described: list[bool] = field(default_factory=list)  # whether a state follows a term

    def read(self) -> list[Assertion]:
        self._look_ahead()
        for k, term in enumerate(self.terms):
            if (step := _STEPS.get(term.role)) is not None:
                step(self, k)
        return self.said

    def _look_ahead(self) -> None:
        join = state = False
        for term in reversed(self.terms):
            self.joined.append(join)
            self.described.append(state)
            join = term.role in _JOINS or (join and term.role not in _ENDS_LIST)
            state = term.role == "state" or (state and term.role not in _ENDS_SUBJECT)
        self.joined.reverse()
        self.described.reverse()

    def _finding(self, k: int) -> None:
        self.said += [Assertion(name, self.scope) for name in self.terms[k].names]

    def _sign(self, k: int) -> None:
        value = UNCERTAIN if self.scope == PRESENT else self.scope
        self.said += [Assertion(name, value) for name in self.terms[k].names]

    def _open(self, k: int) -> None:
        role = self.terms[k].role
        if role == "hint" and self.scope != PRESENT:
            return
        self.scope, self.lasting, self.state = _SCOPES[role], role == "differential", None

    def _look_back(self, k: int) -> None:
        value = _LOOKS_BACK[self.terms[k].role]
        for assertion in self.said[self.clause :]:
            assertion.value = value
        self.clause = len(self.said)

    def _versus(self, k: int) -> None:
        before = self.terms[k - 1] if k else None
        if self.scope == PRESENT and before and before.role == "finding":
            for assertion in self.said[-len(before.names) :]:
                assertion.value = UNCERTAIN
            self.scope = UNCERTAIN

    def _end(self, k: int) -> None:
        self.scope, self.lasting, self.state = PRESENT, False, None
        self.clause = len(self.said)
        self.subjects = []

    def _aside(self, k: int) -> None:
        if self.scope == ABSENT:
            self.scope = PRESENT

    def _comma(self, k: int) -> None:
        listed = self.scope == ABSENT and not self._is_there(k)
        if not (self.joined[k] or listed or self.lasting):
            self.scope = PRESENT
            self.clause = len(self.said)

    def _and(self, k: int) -> None:
        if self.scope == ABSENT and not self.joined[k] and self._is_there(k):
            self.scope = PRESENT

    def _is_there(self, k: int) -> bool:
        """Tell whether what follows is said to be there, as in "no edema, small effusion"."""
        return k + 1 < len(self.terms) and self.terms[k + 1].role == "there"

    def _subject(self, k: int) -> None:
        term, state = self.terms[k], self.state
        if state and (state.after == term.first or not self.described[k]):
            self._describe(term.names, state.names[0], self.state_scope)
            return
        if self.described[k]:
            self.scope = PRESENT
        self.state = None
        self.subjects += term.names

    def _state(self, k: int) -> None:
        term = self.terms[k]
        follows = self.terms[k + 1] if k + 1 < len(self.terms) else None
        leads = follows and follows.role == "subject" and follows.first == term.after
        if leads or not self.subjects:
            self.state, self.state_scope = term, self.scope
            return
        self._describe(self.subjects, term.names[0], self.scope)
        self.state, self.subjects = None, []

    def _describe(self, subjects: list[str] | tuple[str, ...], state: str, scope: Value) -> None:
        for subject in subjects:
            for label, value in self.lexicon.statements.get((subject, state), ()):
                if value != ABSENT:
                    self.said.append(Assertion(label, value if scope == PRESENT else scope))
                elif scope == PRESENT:  # "not normal" says too little
                    self.said.append(Assertion(label, value))


_JOINS = frozenset({"or", "versus"})
_ENDS_LIST = frozenset({END, "absent", "state"})
_ENDS_SUBJECT = frozenset({END, "absent", "finding", "sign"})
_LOOKS_BACK = {"was_absent": ABSENT, "was_uncertain": UNCERTAIN}
_SCOPES: dict[str, Value] = {
    "absent": ABSENT,
    "uncertain": UNCERTAIN,
    "differential": UNCERTAIN,
    "hint": UNCERTAIN,
    "unstated": UNSTATED,
}
_STEPS: dict[str, Callable[[_Reader, int], None]] = {
    **dict.fromkeys(_SCOPES, _Reader._open),
    **dict.fromkeys(_LOOKS_BACK, _Reader._look_back),
    "finding": _Reader._finding,
    "sign": _Reader._sign,
    "versus": _Reader._versus,
    "aside": _Reader._aside,
    "and": _Reader._and,
    "subject": _Reader._subject,
    "state": _Reader._state,
    COMMA: _Reader._comma,
    END: _Reader._end,
}
