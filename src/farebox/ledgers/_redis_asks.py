"""What each operation asks of its script, and what the script's answer means.

Amounts travel as decimal text, in both directions: a script's own numbers are doubles.
"""

from __future__ import annotations

import functools
import itertools
import json
import logging
import struct
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Any, Final
from weakref import WeakKeyDictionary

from farebox.errors import LedgerUnavailable
from farebox.ledgers import (
    NO_LIMIT,
    Account,
    Control,
    Grant,
    Need,
    RowForm,
    Shortfall,
    View,
    WindowClosed,
    with_slack,
)
from farebox.ledgers import _operations as op
from farebox.ledgers import _redis_scripts as scripts
from farebox.ledgers._fitting import NOTHING, Amounts, amounts_of, check_amounts, limits_of, shortfall
from farebox.ledgers._redis_link import Command, Link
from farebox.ledgers._views import Glance

#: For how many seconds the id of a row, of a charge, and of what a person did is remembered.
_ROW_ID_SECONDS: Final = 600
_CHARGE_ID_SECONDS: Final = 86_400
_ENTRY_ID_SECONDS: Final = 40 * 86_400
#: Most keys something is learnt under, and most samples of a key.
_MOST_LEARNT, _MOST_SAMPLES = 1_024, 2_048

_DAY_SECONDS, _QUARTER_SECONDS = 86_400, 900
#: From here on a script's own numbers are not exact.
_LONG: Final = 10**15
#: What the text of an account begins with: its balances, and the number of its holds.
_BALANCES: Final = struct.Struct("<c9q8x")
_BALANCES_SIZE: Final = _BALANCES.size
#: What one script does together: others wait while it runs.
_GO_TOGETHER: Final = (scripts.END, scripts.RESERVE)
_MOST_TOGETHER, _MOST_ARGUMENTS = 16, 256
_MOST_PLACES_KNOWN: Final = 10_000
_NO_ROW: Final = ("", "", "", "", "")
#: What an account may do beside refusing.
_FORCED, _CROSSING = "1", "2"

_tuple = tuple.__new__
_logger = logging.getLogger("farebox")


class Asks:
    """Turns operations into calls of scripts for one store, and answers them from what comes back."""

    def __init__(self, link: Link, form: RowForm, shown: str) -> None:
        self._link = link
        self._form = form
        self._shown = shown
        #: Ids of growths: an extend that is given again is done once.
        self._growths: WeakKeyDictionary[op.Extend, int] = WeakKeyDictionary()
        self._numbers = itertools.count(1)

    def calls(
        self, operations: Sequence[op.Operation], epoch: str, now: str, owner: str
    ) -> list[tuple[list[op.Operation], Command]]:
        """The calls that do all, in order, and which each does.  What holds what no ledger keeps gets its error instead."""
        calls: list[tuple[list[op.Operation], Command]] = []
        together: list[tuple[op.Operation, scripts.Script, Sequence[Any]]] = []

        def call_those_together() -> None:
            if len(together) == 1:
                ((asked, script, arguments),) = together
                calls.append(([asked], self._link.call(script, epoch, now, *arguments)))
            elif together:
                parts: list[Any] = []
                for _, script, arguments in together:
                    parts += (len(arguments), script.name, *arguments)
                calls.append(([one[0] for one in together], self._link.call(scripts.SEVERAL, epoch, now, *parts)))
            together.clear()

        for asked in operations:
            try:
                script, arguments = self._script_of(asked, owner)
            except Exception as error:  # the others can be written down
                asked.error = error
                continue
            if len(together) == _MOST_TOGETHER:
                call_those_together()
            if script in _GO_TOGETHER and len(arguments) <= _MOST_ARGUMENTS:
                together.append((asked, script, arguments))
            else:
                call_those_together()
                calls.append(([asked], self._link.call(script, epoch, now, *arguments)))
        call_those_together()
        return calls

    def _script_of(self, asked: op.Operation, owner: str) -> tuple[scripts.Script, Sequence[Any]]:
        match asked:
            case op.Reserve():
                numbers, choice = _needed(asked.need)
                lives = "" if asked.ttl_seconds is None else repr(float(asked.ttl_seconds))
                call = "" if asked.call is None else self._form.dump(asked.call)
                accounts = _accounts(asked.accounts, asked.forced, asked.crossing)
                return scripts.RESERVE, (asked.hold_id, owner, lives, call, numbers, choice, *accounts)
            case op.Extend():
                check_amounts(asked.usd_nanos, asked.tokens, 0)
                growth = self._growths.setdefault(asked, next(self._numbers))
                accounts = _accounts(asked.accounts, asked.forced)
                return scripts.EXTEND, (
                    asked.hold_id,
                    growth,
                    number_list((asked.usd_nanos, asked.tokens, 0)),
                    *accounts,
                )
            case op.End():
                becomes = "released" if asked.is_released else "settled"
                return scripts.END, (asked.hold_id, becomes, number_list(asked.amounts), *self.row(asked.row))
            case op.Note():
                call = "" if asked.call is None else self._form.dump(asked.call)
                return scripts.NOTE, (asked.hold_id, asked.name, asked.memo, repr(float(asked.lives_seconds)), call)
            case op.Charge():
                check_amounts(*asked.amounts)
                rest = (number_list(asked.amounts), *self.row(asked.row), *_accounts(asked.accounts))
                return scripts.CHARGE, (f"h:{asked.hold_id}", _CHARGE_ID_SECONDS, *rest)
            case op.Adjust():
                count, *accounts = _accounts(asked.accounts)
                for key in asked.known_keys:
                    accounts += (key, "", "")
                count += len(asked.known_keys)
                turn = () if asked.turn is None else (asked.turn,)
                rest = (number_list(asked.amounts), *self.row(asked.row), count, *accounts, *turn)
                return scripts.CHARGE, (f"e:{asked.adjust_id}", _ENTRY_ID_SECONDS, *rest)
            case op.SayControl():
                said = _control_text(asked.said)
                return scripts.SAY, (asked.entry_id, _ENTRY_ID_SECONDS, "control", asked.key, said)
            case op.TopUp():
                check_amounts(*asked.amounts)
                rest = (number_list(asked.amounts), *account_arguments(asked.account))
                return scripts.SAY, (asked.entry_id, _ENTRY_ID_SECONDS, "top_up", *rest)
            case op.Reset():
                rest = ("", *account_arguments(asked.account))
                return scripts.SAY, (asked.entry_id, _ENTRY_ID_SECONDS, "reset", *rest)
            case op.AddRow():
                return scripts.ADD_ROW, (asked.row_id, _ROW_ID_SECONDS, *self.row(asked.row))
            case op.Learn():
                return scripts.LEARN, (asked.key, asked.bucket, _MOST_LEARNT, _MOST_SAMPLES)
            case op.Forget():
                return scripts.FORGET, (asked.key,)
            case _:
                raise TypeError(f"a Redis ledger does not know the operation {type(asked).__name__}")

    def row(self, row: Any) -> tuple[Any, ...]:
        """The five arguments of a row.  One that can't be written down is left out: the money is not."""
        if row is None:
            return _NO_ROW
        try:
            span, starts_at, place, sums = self._form.sum_of(row)
            began = starts_at
            if span == "second":
                span, starts_at = "quarter", starts_at // _QUARTER_SECONDS * _QUARTER_SECONDS
            field = f"{span}|{starts_at}|{_place_text(self._form.dump_place, place)}"
            text = self._form.dump(row).encode()
            return text, began, starts_at // _DAY_SECONDS, field.encode(), packed(sums)
        except Exception as error:
            _logger.error("ledger %s keeps no row of a call: %s", self._shown, type(error).__name__)
            return _NO_ROW

    def answer(self, those: Sequence[op.Operation], reply: Any) -> None:
        """Answer those that a call did as its script has."""
        if len(those) == 1 or isinstance(reply, Exception):
            for asked in those:
                self._answer(asked, reply)
        else:
            for asked, own in zip(those, reply[2:], strict=True):
                self._answer(asked, own)

    def _answer(self, asked: op.Operation, reply: Any) -> None:
        if isinstance(reply, Exception):
            asked.error = ValueError(f"ledger {self._shown} refuses what it was given: {reply}")
            return
        status = reply[0]
        match asked:
            case op.Reserve():
                self._answer_reserve(asked, status, reply)
            case op.Extend() if status == b"held":
                asked.answer = grant_of(reply[2])
            case op.Extend() if status == b"short":
                _, *own = grant_of(reply[2])
                more = (asked.usd_nanos, asked.tokens, 0)
                seen = _glances(asked.accounts, reply[3:])
                asked.answer = _explain(asked.accounts, seen, asked.forced, more, more, (own[0], own[1], own[2]))
            case op.Extend() if status == b"error":
                asked.error = ValueError(reply[2].decode())
            case op.Adjust() | op.SayControl() | op.TopUp() | op.Reset():
                asked.answer = status == b"yes"

    def _answer_reserve(self, asked: op.Reserve, status: bytes, reply: Any) -> None:
        if status == b"held":
            asked.answer = grant_of(reply[2])
            asked.is_over = reply[3] == b"1"
            asked.views = _glances(asked.accounts, reply[4:])
        elif status == b"short":
            asked.views = seen = _glances(asked.accounts, reply[2:])
            least, floor = (amounts_of(asked.need, cap) for cap in (asked.need.least_cap, asked.need.floor_cap))
            asked.answer = _explain(asked.accounts, seen, asked.forced, least, floor, crossing=asked.crossing)
        elif status == b"closed":
            asked.error = WindowClosed(float(reply[1]))
        elif status == b"refused":
            asked.error = LedgerUnavailable(
                f"ledger {self._shown} was told to give this call up before it was asked for it"
            )
        else:
            asked.error = ValueError(reply[2].decode())


@functools.lru_cache(maxsize=_MOST_PLACES_KNOWN)
def _place_text(dump_place: Callable[[Hashable], str], place: Hashable) -> str:
    return dump_place(place)


def number_list(numbers: Sequence[int]) -> str:
    """Whole numbers as JSON, those in quotes that a script's own numbers do not hold exactly."""
    if not numbers or (max(numbers) < _LONG and min(numbers) > -_LONG):
        if len(numbers) == 3:
            return f"[{numbers[0]},{numbers[1]},{numbers[2]}]"
        return "[" + ",".join(map(str, numbers)) + "]"
    return "[" + ",".join(f'"{number}"' if abs(number) >= _LONG else str(number) for number in numbers) + "]"


def numbers_of(text: bytes) -> list[int]:
    """The numbers of such a list."""
    inner = text[1:-1].replace(b'"', b"")
    return [int(number) for number in inner.split(b",")] if inner else []


def packed(numbers: Sequence[int]) -> bytes | str:
    """Whole numbers as eight bytes each after a `p`, or such a list where one is long."""
    if not numbers or (max(numbers) < _LONG and min(numbers) > -_LONG):
        return struct.pack(f"<c{len(numbers)}q", b"p", *numbers)
    return number_list(numbers)


def unpacked(packed: bytes) -> Sequence[int]:
    """The numbers in such bytes."""
    if packed[:1] == b"p":
        return struct.unpack_from(f"<{len(packed) // 8}q", packed, 1)
    return numbers_of(packed)


def grant_of(text: bytes) -> Grant:
    try:
        return _tuple(Grant, map(int, text[1:-1].split(b",")))
    except ValueError:  # long ones stand in quotes
        return Grant(*numbers_of(text))


def _needed(need: Need) -> tuple[str, bytes | str]:
    """Cap and amounts of a need as JSON, and what there is to choose from; '' where that is nothing."""
    if not need.share and need.least_cap == need.want_cap:
        amounts = amounts_of(need, need.want_cap)
        if min(amounts) >= 0 and max(amounts) < _LONG and need.want_cap < _LONG:
            return f"[{need.want_cap},{amounts[0]},{amounts[1]},{amounts[2]}]", ""
        # Of larger ones the script says, where nobody was killed, that no account can hold them.
        held = [min(amount, NO_LIMIT + 1) for amount in amounts]
        check_amounts(*(min(amount, NO_LIMIT) for amount in held))
        return number_list((need.want_cap, *held)), ""
    most_bought = with_slack(need.most_cap) * max(1, need.share)
    fixed, rates = (need.fixed_usd_nanos, need.fixed_tokens), (need.usd_nanos_per_token, need.tokens_per_token)
    check_amounts(*fixed, need.calls)
    check_amounts(*rates, 0)
    if rates[0]:
        most_bought = min(most_bought, (NO_LIMIT - fixed[0]) // rates[0])  # where no account has a limit
    least, floor = amounts_of(need, need.least_cap)[:2], amounts_of(need, need.floor_cap)[:2]
    # The last are as large as any number the script may come to, so that it knows how wide they get.
    most = [one + rate * most_bought for one, rate in zip(fixed, rates, strict=True)]
    caps = need.floor_cap, need.want_cap, need.most_cap, need.share
    return number_list((0, 0, 0, need.calls)), packed((*fixed, *rates, *least, *floor, *most, most_bought, *caps))


def _accounts(accounts: Sequence[Account], forced: Collection[str] = (), crossing: Collection[str] = ()) -> list[Any]:
    """How many accounts, and then three arguments of each."""
    if not forced and not crossing and isinstance(accounts, tuple):
        return _plain_accounts(accounts)
    arguments: list[Any] = [len(accounts)]
    for account in accounts:
        key = account.key
        arguments += (key, _terms(account), _FORCED if key in forced else _CROSSING if key in crossing else "")
    return arguments


@functools.lru_cache(maxsize=4_096)  # by identity, as below
def _plain_accounts(accounts: tuple[Account, ...]) -> list[Any]:
    return _accounts(list(accounts))


def account_arguments(account: Account) -> tuple[str, str, str]:
    return account.key, _terms(account), ""


@functools.lru_cache(maxsize=4_096)  # by identity: accounts do not change, and most are used again
def _terms(account: Account) -> str:
    """What an account is used with: its limits and its window, -1 for none, and keys of controls."""
    limits = account.limit_usd_nanos, account.limit_tokens, account.limit_calls
    check_amounts(*limits)
    window = account.starts_at, account.ends_at
    shown = [-1 if limit == NO_LIMIT else str(limit) if limit >= _LONG else limit for limit in limits]
    parts = [*shown, *(-1 if at is None else at for at in window), list(account.controls)]
    return json.dumps(parts, separators=(",", ":"))


def _control_text(said: Control) -> str:
    limits = said.limit_usd_nanos, said.limit_tokens, said.limit_calls
    check_amounts(*(0 if limit is None else limit for limit in limits))
    killed = None if said.is_killed is None else int(said.is_killed)
    return number_list([-1 if part is None else part for part in (*limits, killed)])


def control_of(text: bytes) -> Control:
    usd, tokens, calls, killed = (None if part == -1 else part for part in numbers_of(text))
    is_killed = None if killed is None else bool(killed)
    return Control(limit_usd_nanos=usd, limit_tokens=tokens, limit_calls=calls, is_killed=is_killed)


def view_of(own_limits: Amounts, text: bytes) -> View:
    """The view that a text of an answer says of an account with these limits of its own."""
    return _glance_of(own_limits, text).view()


def _glance_of(own_limits: Amounts, text: bytes) -> Glance:
    is_packed = text[:1] == b"p"
    if is_packed and len(text) == _BALANCES_SIZE:
        return _tuple(Glance, (_BALANCES.unpack(text)[1:], own_limits, False))
    length = _BALANCES.size if is_packed else text.index(b"]") + 1
    numbers = _BALANCES.unpack_from(text)[1:] if is_packed else tuple(numbers_of(text[:length])[:9])
    if text[length : length + 1] != b"\n":
        return Glance(numbers, own_limits, False)
    limits, killed = text[length + 1 :].split(b"\n")
    usd, tokens, calls = (NO_LIMIT if limit == -1 else limit for limit in numbers_of(limits))
    return Glance(numbers, (usd, tokens, calls), killed == b"1")


def _glances(accounts: Sequence[Account], texts: Sequence[bytes]) -> dict[str, Glance]:
    return {account.key: _glance_of(limits_of(account), text) for account, text in zip(accounts, texts, strict=True)}


def limits_in(terms: bytes) -> Amounts:
    """The limits in the terms of an account."""
    usd, tokens, calls = (NO_LIMIT if limit == -1 else int(limit) for limit in json.loads(terms)[:3])
    return usd, tokens, calls


def _explain(
    accounts: Sequence[Account],
    seen: Mapping[str, Glance],
    forced: Collection[str],
    least: Amounts,
    floor: Amounts,
    own: Amounts = NOTHING,
    crossing: Collection[str] = (),
) -> Shortfall:
    """Who was short, from what the accounts held when they refused."""
    killed = next((account for account in accounts if seen[account.key].is_killed), None)
    if killed is not None:
        (spent, reserved, *_), limits, _ = seen[killed.key]
        return Shortfall(killed, "usd", limits[0], spent, reserved, least[0], "exhausted", is_killed=True)
    balances = {key: glance.numbers for key, glance in seen.items()}
    in_force = {key: glance.limits for key, glance in seen.items()}
    exempt = [account for account in accounts if account.key in forced]
    letting = [account for account in accounts if account.key in crossing]
    short = shortfall(balances, accounts, exempt, least, floor, own, in_force, letting)
    assert short is not None, "a script refused what fits"
    return short
