"""The pages of `farebox top`, one on top of the other: rows of a report, the calls behind one, one call explained.

A page asks the ledger in `load`, and draws what it was told in `lines`, so that keys are answered at once.
"""

from __future__ import annotations

import abc
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, NamedTuple, TypeVar

from farebox.cli import _doors
from farebox.cli._exits import Problem
from farebox.cli._explaining import Table, told
from farebox.cli._output import AMOUNTS, Column, Shown, amount, cells_of, harmless, show_instant
from farebox.cli._reading import check_tags, midnight

if TYPE_CHECKING:
    from rich.text import Text

    from farebox.types import CallRecord

#: Calls that a page lists at most.
_MOST_CALLS: Final = 500
_LEAST_NAME: Final = 6
_GAP: Final = "  "
_BACK: Final = "esc back, q ends"
#: Lines of a list that are no item: a heading, a space, titles, a note, keys.
_AROUND: Final = 5

Item = TypeVar("Item")


class Order(NamedTuple, Generic[Item]):
    """What a key sorts by."""

    name: str
    of: Callable[[Item], Any]
    is_falling: bool = True


class Question(NamedTuple):
    """What is asked of the ledger."""

    by: tuple[str, ...]
    since: str | None
    where: dict[str, str]
    shown: Shown

    def begins(self) -> str | datetime:
        return self.since or midnight(self.shown)


def ask(question: Question) -> tuple[list[Any], Any]:
    """The rows of the report, the dearest first, and the total."""
    import farebox

    found = farebox.report(by=question.by, since=question.begins(), where=question.where, tz=question.shown.zone_name)
    check_tags(found.rows, question.by, question.where)
    return list(found.rows), found.total


def heading(question: Question, total: Any) -> str:
    """One line about the total."""
    since = f"in the last {question.since}" if question.since else "today"
    now = show_instant(datetime.now(UTC), question.shown.zone)
    return f"{now}  {amount(total.usd)} USD {since}, {total.calls} calls, {amount(total.reserved_usd)} USD reserved"


class Screen(abc.ABC):
    """One page."""

    @abc.abstractmethod
    def load(self) -> None:
        """Ask the ledger again."""

    @abc.abstractmethod
    def lines(self, width: int, height: int) -> list[Text]:
        """At most so many lines, each at most so wide."""

    @abc.abstractmethod
    def press(self, key: str) -> Screen | None:
        """Do what a key says; a page that it opens."""


class ListScreen(Screen, Generic[Item]):
    """Items to choose one of, in an order that keys choose."""

    orders: ClassVar[Mapping[str, Order[Any]]]

    def __init__(self, columns: Sequence[Column], droppable: Sequence[str]) -> None:
        self.columns = columns
        #: Titles of columns that a narrow terminal does without, the first first.
        self._droppable = droppable
        self.items: list[Item] = []
        self.order = next(iter(self.orders))
        self.is_reversed = False
        self._at = 0
        self._top = 0
        self._page = 1
        #: Which item is chosen, once somebody moved: the place follows it.
        self._chosen: Hashable = None

    @abc.abstractmethod
    def key_of(self, item: Item) -> Hashable:
        """What stays the same of an item when it is asked for again."""

    @abc.abstractmethod
    def cells(self, item: Item) -> list[str]: ...

    @abc.abstractmethod
    def head(self) -> str: ...

    @abc.abstractmethod
    def note(self) -> str:
        """What is to be said about the list, "" where nothing is."""

    @abc.abstractmethod
    def keys(self) -> str: ...

    @abc.abstractmethod
    def opened(self, item: Item) -> Screen: ...

    def show(self, items: Sequence[Item]) -> None:
        """These items from now on."""
        order = self.orders[self.order]
        self.items = sorted(items, key=order.of, reverse=order.is_falling != self.is_reversed)
        if self._chosen is not None:
            places = (n for n, item in enumerate(self.items) if self.key_of(item) == self._chosen)
            self._at = next(places, self._at)
        self._at = max(0, min(self._at, len(self.items) - 1))

    def press(self, key: str) -> Screen | None:
        if key == "enter" and self.items:
            return self.opened(self.items[self._at])
        steps = {
            "up": -1,
            "k": -1,
            "down": 1,
            "j": 1,
            "home": -len(self.items),
            "end": len(self.items),
            "page up": -self._page,
            "page down": self._page,
        }
        if key in steps and self.items:
            self._at = max(0, min(self._at + steps[key], len(self.items) - 1))
            self._chosen = self.key_of(self.items[self._at])
        elif key in self.orders or key == "r":
            if key == "r":
                self.is_reversed = not self.is_reversed
            else:
                self.order = key
            self.show(self.items)
        return None

    def lines(self, width: int, height: int) -> list[Text]:
        from rich.text import Text

        self._page = room = max(1, height - _AROUND)
        self._top = max(min(self._top, self._at, len(self.items) - room), self._at - room + 1, 0)
        titles, *rows = fitted(
            self.columns,
            [self.cells(item) for item in self.items[self._top : self._top + room]],
            width - 2,
            self._droppable,
        )
        found = [Text(self.head(), style="bold"), Text(), Text(f"  {titles}", style="dim")]
        for n, row in enumerate(rows, self._top):
            found.append(Text(f"> {row}", style="reverse") if n == self._at else Text(f"  {row}"))
        order = self.orders[self.order].name
        by = f"by {order}{', turned around' if self.is_reversed else ''}"
        of = f"{self._at + 1} of {len(self.items)}, " if self.items else ""
        found += [Text(self.note(), style="dim"), Text(f"{of}{by}; {self.keys()}", style="dim")]
        return found[:height]


class RowsScreen(ListScreen[Any]):
    """The rows of a report."""

    orders: ClassVar = {
        "u": Order("usd", lambda row: row.usd + row.reserved_usd),
        "c": Order("calls", lambda row: row.calls),
        "t": Order("tokens", lambda row: row.input_tokens + row.output_tokens),
        "f": Order("refused", lambda row: row.refused_calls),
        "n": Order("name", lambda row: tuple(row.tags.values()), is_falling=False),
    }

    def __init__(self, question: Question) -> None:
        super().__init__(
            [*map(Column, question.by), *AMOUNTS],
            ("refused", "reserved usd", "tokens out", "tokens in", "calls"),
        )
        self._question = question
        self._total: Any = None

    def load(self) -> None:
        rows, self._total = ask(self._question)
        self.show(rows)

    def key_of(self, item: Any) -> Hashable:
        return tuple(item.tags.values())

    def cells(self, item: Any) -> list[str]:
        return [*(value or "-" for value in item.tags.values()), *cells_of(item)]

    def head(self) -> str:
        return heading(self._question, self._total)

    def note(self) -> str:
        return "" if self.items else "no calls yet"

    def keys(self) -> str:
        return "enter shows the calls, q ends; u c t f n sort, r turns"

    def opened(self, item: Any) -> Screen:
        return CallsScreen(self._question, dict(item.tags))


def _cost(call: CallRecord) -> Any:
    return call.bound_usd if call.ended_at is None else call.usd or 0


class CallsScreen(ListScreen[Any]):
    """The calls behind a row, the dearest of them."""

    orders: ClassVar = {
        "u": Order("usd", _cost),
        "t": Order("tokens", lambda call: call.charged_input_tokens + call.charged_output_tokens),
        "b": Order("begin", lambda call: call.started_at),
    }

    def __init__(self, question: Question, group: Mapping[str, str]) -> None:
        columns = [*map(Column, ("began", "model", "outcome")), *(Column(one, True) for one in ("in", "out", "usd"))]
        super().__init__([*columns, Column("tags")], ("tags", "out", "in", "outcome", "began"))
        self._question = question
        self._group = group

    def load(self) -> None:
        asked = self._question
        self.show(
            _doors.calls_behind(
                self._group, since=asked.begins(), where=asked.where, tz=asked.shown.zone_name, most=_MOST_CALLS
            )
        )

    def key_of(self, item: CallRecord) -> Hashable:
        return item.call_id, item.outcome, item.ended_at

    def cells(self, item: CallRecord) -> list[str]:
        began = item.started_at.astimezone(self._question.shown.zone)
        usd = "no price" if item.usd is None else amount(item.usd)
        if item.ended_at is None:
            usd = f"<= {amount(item.bound_usd)}"
        return [
            f"{began:%m-%d %H:%M:%S}" if self._question.since else f"{began:%H:%M:%S}",
            item.model or "-",
            "in flight" if item.ended_at is None else item.outcome,
            str(item.charged_input_tokens),
            str(item.charged_output_tokens),
            usd,
            " ".join(f"{name}={value}" for name, value in item.tags.items()),
        ]

    def head(self) -> str:
        named = ", ".join(f"{name}={value or '-'}" for name, value in self._group.items())
        return harmless(f"calls of {named}" if named else "all calls")

    def note(self) -> str:
        if not self.items:
            return "no single call of it is kept"
        ended = sum(call.ended_at is not None for call in self.items)
        return f"the dearest {_MOST_CALLS}; farebox export has all" if ended >= _MOST_CALLS else ""

    def keys(self) -> str:
        return f"enter explains, {_BACK}; u t b sort, r turns"

    def opened(self, item: CallRecord) -> Screen:
        return CallScreen(item.call_id, self._question.shown)


class CallScreen(Screen):
    """One call, as `farebox explain` tells it."""

    def __init__(self, call_id: str, shown: Shown) -> None:
        self._call_id = call_id
        self._shown = shown
        self._parts: Sequence[str | Table] = ()
        self._top = 0
        self._page = 1

    def load(self) -> None:
        try:
            self._parts = told(self._call_id, self._shown)
        except Problem as error:  # which says why there is nothing to explain
            self._parts = (error.message,)

    def press(self, key: str) -> Screen | None:
        steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -self._page, "page down": self._page}
        self._top = max(0, self._top + steps.get(key, 0))
        return None

    def lines(self, width: int, height: int) -> list[Text]:
        from rich.text import Text

        self._page = room = max(1, height - 2)
        all_lines: list[str] = []
        for part in self._parts:
            if isinstance(part, Table):
                all_lines += fitted(part.columns, part.rows, width, ("usd", "count"))
            else:
                all_lines += [folded for line in part.split("\n") for folded in _folded(line, width)]
        self._top = max(0, min(self._top, len(all_lines) - room))
        below = len(all_lines) - self._top - room
        found = [Text(line) for line in all_lines[self._top : self._top + room]]
        keys = f"{f'{below} more lines below; ' if below > 0 else ''}{_BACK}"
        return [*found, Text(), Text(keys, style="dim")][:height]


# ── how it fits ──────────────────────────────────────────────────────────────────────────────────────────────────


def fitted(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int, droppable: Sequence[str]) -> list[str]:
    """Titles and rows, as wide as there is room: names are shortened, and then columns left out, in the order given."""
    from rich.cells import cell_len

    shown = list(range(len(columns)))
    table = [[column.title for column in columns], *([harmless(cell) for cell in row] for row in rows)]
    widths = [max(map(cell_len, cells)) for cells in zip(*table, strict=True)]
    names = [n for n, column in enumerate(columns) if not column.is_number]
    leaves = [next(n for n, column in enumerate(columns) if column.title == title) for title in droppable]

    def taken() -> int:
        return sum(widths[n] for n in shown) + len(_GAP) * (len(shown) - 1)

    while taken() > width:
        longest = max((n for n in names if n in shown), key=lambda n: widths[n], default=None)
        if longest is not None and widths[longest] > 2 * _LEAST_NAME:
            widths[longest] -= 1
        elif leaves:
            left_out = leaves.pop(0)
            shown = [n for n in shown if n != left_out]
        elif longest is not None and widths[longest] > 1:
            widths[longest] -= 1
        else:
            break
    return [_GAP.join(_cell(line[n], widths[n], columns[n].is_number) for n in shown).rstrip() for line in table]


def _cell(text: str, width: int, is_number: bool) -> str:
    from rich.cells import cell_len, set_cell_size

    length = cell_len(text)
    if length > width:
        return set_cell_size(text, width - 1) + "…"
    return " " * (width - length) + text if is_number else text + " " * (width - length)


def _folded(line: str, width: int) -> list[str]:
    """A line in as many as it needs, broken between words where that is possible."""
    from rich.cells import cell_len, chop_cells

    found = [""]
    for word in re.findall(r"\S+\s*|\s+", line):
        if cell_len(found[-1] + word.rstrip()) <= width:
            found[-1] += word
        else:
            found += chop_cells(word.rstrip(), max(2, width))
            found[-1] += word[len(word.rstrip()) :]
    return [part.rstrip() for part in (found if found[0] or len(found) == 1 else found[1:])]
