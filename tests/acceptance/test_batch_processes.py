"""Batches that one process submits and another collects: paid once, at what their results say, as the first one would have.

What becomes of a batch whose process has ended, on a ledger that processes share:

    the note was written   held for two days (other answers: an hour), whoever looks for the dead; then charged at its bound
    somebody asks          charged at what the results say; if its bound was charged meanwhile, that is corrected
    somebody asks again    nothing
    no note was written    charged at its bound once its process is known to be dead, and by nobody else: what was killed
                           within 20 ms or so of its answer
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import farebox
from farebox import _config, _pending, signals
from farebox.providers import _openai_batches
from farebox.testing import FakeProvider, FixedClock
from tests.acceptance.programs.batches import KINDS, ROWS, TEXT
from tests.acceptance.programs.stores import expire, namespace, standing_row
from tests.acceptance.rides import OPENAI
from tests.servers import redis_server

pytestmark = pytest.mark.usefixtures("metered")

ORG = {"usd": "1", "calls": 100, "each": "feature"}
#: Past the two days that a batch stays held.
LATER = 3 * 86_400.0


@pytest.fixture
def kind() -> str:
    """What is submitted, where all kinds go the same way; that they are paid alike is `test_collected`'s."""
    return "anthropic"


@pytest.fixture
def clients(provider: FakeProvider) -> Iterator[Callable[[str], Any]]:
    with contextlib.ExitStack() as opened:
        yield lambda kind: opened.enter_context(KINDS[kind].client(provider))


def row() -> Any:
    return standing_row("org", "usd", feature="nightly")


def paid_once(provider: FakeProvider, call_id: str, kind: str) -> None:
    """The books say what the bill says, in one row, which is that of the process that has submitted it."""
    assert farebox.flush(10)
    (record,) = farebox.calls()
    assert (record.call_id, record.tags, record.scope) == (call_id, {"feature": "nightly"}, "scope")
    assert (record.outcome, record.cost_source, record.doubt) == ("completed", "list", "")
    assert record.usd == row().spent == provider.bill.usd == farebox.report().total.usd > 0
    (total,) = farebox.report(by=["feature"])
    assert (total.tags["feature"], total.usd, total.calls) == ("nightly", provider.bill.usd, provider.bill.calls)
    calls = standing_row("org", "calls", feature="nightly")
    assert (calls.spent, calls.reserved) == (1 if kind == "background" else ROWS, 0)
    assert (row().reserved, row().debt) == (0, 0)
    assert farebox.report().total.reserved_usd == 0


def submitted(start: Any, url: str, kind: str, ends: str) -> dict[str, Any]:
    program = start("submit", ledger=url, budgets=[ORG], kind=kind, ends=ends)
    said: dict[str, Any] = program.hear()
    program.end()
    return said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ends", ["by itself", "killed"])
def test_what_one_process_submits_the_next_one_collects(
    ends: str, kind: str, provider: FakeProvider, url: str, start: Any, use: Any, clients: Any
) -> None:
    use(url, ORG)
    provider.background(2, batches_tell_usage=False)
    said = submitted(start, url, kind, ends)
    held = row().reserved
    assert held > provider.bill.usd
    expire()  # its process is dead: it is waited for all the same
    client = clients(kind)
    while not KINDS[kind].collect(client, said["batch"]):
        assert (row().spent, row().reserved) == (0, held)
    paid_once(provider, said["call"], kind)
    assert KINDS[kind].collect(client, said["batch"])
    paid_once(provider, said["call"], kind)


def test_two_that_collect_at_once_pay_once(kind: str, provider: FakeProvider, url: str, start: Any, use: Any) -> None:
    use(url, ORG)
    provider.background(1, batches_tell_usage=False)
    said = submitted(start, url, kind, "by itself")
    collectors = [
        start("collect", ledger=url, budgets=[ORG], kind=kind, batch=said["batch"], times=8) for _ in range(2)
    ]
    for program in collectors:
        program.hear()
    for program in collectors:
        program.go()
    assert [program.hear()["there"][-1] for program in collectors] == [True, True]
    assert [program.end() for program in collectors] == [0, 0]
    paid_once(provider, said["call"], kind)


def test_what_was_presumed_spent_meanwhile_is_corrected(
    kind: str, provider: FakeProvider, url: str, start: Any, use: Any, clients: Any
) -> None:
    use(url, ORG)
    provider.background(0, batches_tell_usage=False)
    said = submitted(start, url, kind, "killed")
    held = row().reserved
    expire()
    _config.state().ledger.expire(time.time() + LATER)
    (record,) = farebox.calls()
    assert (record.call_id, record.outcome, record.cost_source) == (said["call"], "unknown", "estimated")
    assert (row().spent, row().reserved, record.response_id) == (held, 0, said["batch"])
    assert KINDS[kind].collect(clients(kind), said["batch"])
    paid_once(provider, said["call"], kind)


@pytest.mark.parametrize("first", ["the other", "its own process"])
def test_a_process_that_asks_after_its_own_batch_too_pays_nothing_twice(
    first: str, kind: str, provider: FakeProvider, url: str, start: Any, use: Any, clients: Any
) -> None:
    use(url, ORG)
    provider.background(0, batches_tell_usage=False)
    program = start("submit", ledger=url, budgets=[ORG], kind=kind, ends="after its batch")
    said = program.hear()
    if first == "the other":
        assert KINDS[kind].collect(clients(kind), said["batch"])
        paid_once(provider, said["call"], kind)
    program.go()
    asked = program.hear()
    assert (asked["there"], Decimal(asked["spent"]), Decimal(asked["reserved"])) == (True, provider.bill.usd, 0)
    assert program.end() == 0
    assert KINDS[kind].collect(clients(kind), said["batch"])
    paid_once(provider, said["call"], kind)
    nothing_is_held_of(provider)


def nothing_is_held_of(provider: FakeProvider) -> None:
    assert not _config.state().ledger.in_flight()
    assert farebox.report().total.calls == provider.bill.calls


def test_a_batch_whose_note_was_not_written_is_presumed_spent(
    kind: str, provider: FakeProvider, url: str, start: Any, use: Any, clients: Any
) -> None:
    use(url, ORG)
    provider.background(0, batches_tell_usage=False)
    said = submitted(start, url, kind, "at once")
    held = row().reserved
    expire()
    is_noted = row().reserved > 0  # it may just have been written
    assert row().spent + row().reserved == held
    KINDS[kind].collect(clients(kind), said["batch"])
    if is_noted:
        paid_once(provider, said["call"], kind)
    else:
        assert (row().spent, row().reserved) == (held, 0)
        assert len(farebox.calls()) == 1


def test_a_batch_that_nobody_noted_is_nobodys(
    kind: str, provider: FakeProvider, url: str, use: Any, clients: Any
) -> None:
    provider.background(0, batches_tell_usage=False)
    client = clients(kind)
    with contextlib.ExitStack() as elsewhere:  # in another ledger
        elsewhere.enter_context(farebox.configure(ledger="memory://"))
        batch_id = KINDS[kind].submit(client)
    _pending._calls.clear()
    use(url, ORG)
    assert KINDS[kind].collect(client, batch_id)
    assert farebox.calls() == []
    assert farebox.report().total.usd == 0


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
def test_async_clients_collect_too_and_their_loop_goes_on_meanwhile(
    kind: str, provider: FakeProvider, url: str, start: Any, use: Any
) -> None:
    use(url, ORG)
    provider.background(0, batches_tell_usage=False)
    said = submitted(start, url, kind, "by itself")

    async def main() -> None:
        async with KINDS[kind].ride.async_client(provider) as client:
            if kind == "openai":
                batch = await client.batches.retrieve(said["batch"])
                await client.files.content(batch.output_file_id)
            else:
                assert len([one async for one in await client.messages.batches.results(said["batch"])]) == ROWS

    asyncio.run(main())
    paid_once(provider, said["call"], kind)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_batch_that_was_found_in_a_list_is_paid_by_the_file_of_its_results(
    is_async: bool, provider: FakeProvider, url: str, start: Any, use: Any, clients: Any
) -> None:
    use(url, ORG)
    provider.background(0, batches_tell_usage=False)
    said = submitted(start, url, "openai", "by itself")
    with farebox.configure(ledger="memory://"):  # what the list says, without a look from here
        found = clients("openai").batches.retrieve(said["batch"]).to_dict()
    _openai_batches._results.clear()
    odd = {"id": 7, "output_file_id": ["file"]}
    provider.serve("/v1/batches", {"object": "list", "data": [odd, found], "has_more": False})
    if is_async:

        async def main() -> None:
            async with OPENAI.async_client(provider) as client:
                listed = [one async for one in client.batches.list()]
                await client.files.content(listed[-1].output_file_id)

        asyncio.run(main())
    else:
        *_, last = clients("openai").batches.list()
        assert row().spent == 0
        clients("openai").files.content(last.output_file_id)
    paid_once(provider, said["call"], "openai")


def test_a_batch_is_paid_in_the_window_and_at_the_time_it_was_sent_in(
    provider: FakeProvider, url: str, use: Any, clients: Any
) -> None:
    client, wall = clients("openai"), FixedClock(time.time())
    provider.background(0, batches_tell_usage=False)
    use(url, ORG, clock=wall)
    began = time.time()
    with farebox.track(feature="nightly"), farebox.budget("scope", usd=1):
        batch_id = KINDS["openai"].submit(client)
    farebox.flush(5)
    _pending._calls.clear()
    wall.tick(86_400)
    assert KINDS["openai"].collect(client, batch_id)
    assert farebox.flush(5)
    accounts = _config.state().ledger.accounts("")
    assert [view.balance.spent_usd_nanos for _, view in accounts if view.balance.spent_usd_nanos] == [
        int(provider.bill.usd * 10**9)
    ]
    assert not [one for one in farebox.status("org", feature="nightly") if one.spent]
    (record,) = farebox.calls()
    assert began <= record.started_at_seconds <= time.time()
    assert record.usd == provider.bill.usd


def test_a_forked_child_collects_what_its_parent_has_submitted(
    provider: FakeProvider, url: str, use: Any, clients: Any
) -> None:
    use(url, ORG)
    provider.background(0, batches_tell_usage=False)
    with farebox.track(feature="nightly"), farebox.budget("scope", usd=1) as scope:
        batch_id = KINDS["openai"].submit(clients("openai"))
        assert farebox.flush(5)
        (call,) = farebox.calls()
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException), KINDS["openai"].client(provider) as client:
                KINDS["openai"].collect(client, batch_id)
                code = int(not farebox.flush(10))
            os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
    paid_once(provider, call.call_id, "openai")
    assert KINDS["openai"].collect(clients("openai"), batch_id)
    paid_once(provider, call.call_id, "openai")
    assert (scope.spent_usd, scope.reserved_usd) == (provider.bill.usd, 0)


# ── what is noted, and a ledger that does not answer ─────────────────────────────────────────────────────────────


def test_neither_prompt_nor_answer_nor_key_is_noted(
    kind: str, provider: FakeProvider, use: Any, tmp_path: Path
) -> None:
    use(f"sqlite:///{tmp_path}/ledger.db", ORG)
    provider.answer(text="an answer that is nobody's business", output_tokens=50)
    with KINDS[kind].client(provider, api_key="sk-secret") as client, farebox.track(feature="nightly"):
        batch_id = KINDS[kind].submit(client)
        farebox.flush(5)
        _pending._calls.clear()
        kept = b"".join(path.read_bytes() for path in tmp_path.glob("ledger.db*") if path.is_file())
        KINDS[kind].collect(client, batch_id)
    farebox.flush(5)
    kept += b"".join(path.read_bytes() for path in tmp_path.glob("ledger.db*") if path.is_file())
    assert batch_id.encode() in kept
    for secret in (TEXT, "nobody's business", "sk-secret"):
        assert secret.encode() not in kept


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("store", ["sqlite", "redis"])
def test_whoever_asks_gets_the_answer_also_where_the_ledger_is_down(
    store: str, is_async: bool, provider: FakeProvider, use: Any, tmp_path: Path, clients: Any, caplog: Any
) -> None:
    provider.background(0)
    with contextlib.ExitStack() as running:
        if store == "redis":
            server = running.enter_context(redis_server(tmp_path, "--appendonly", "yes"))
            use(f"redis://127.0.0.1:{server.port}/0?namespace={namespace()}&timeout=0.3", ORG)
        else:
            use(f"sqlite:///{tmp_path}/ledger.db?timeout=0.3", ORG)
        with farebox.track(feature="nightly"):
            batch_id = KINDS["openai"].submit(clients("openai"))
        farebox.flush(5)
        _pending._calls.clear()
        if store == "redis":
            server.kill()
        else:
            for path in tmp_path.glob("ledger.db*"):
                if path.is_file():
                    path.unlink()
        if is_async:

            async def main() -> Any:
                async with OPENAI.async_client(provider) as client:
                    return [(await client.batches.retrieve(batch_id)).status for _ in range(3)]

            said = asyncio.run(main())
        else:
            said = [clients("openai").batches.retrieve(batch_id).status for _ in range(3)]
        assert said == ["completed"] * 3
    complaints = [record for record in caplog.records if "an answer that another process waits for" in record.message]
    assert len(complaints) == 1
    caplog.clear()


def test_a_memo_that_can_not_be_read_stays_held_and_raises_nothing(
    provider: FakeProvider, url: str, use: Any, clients: Any, caplog: Any
) -> None:
    use(url, ORG)
    provider.background(0)
    client = clients("openai")
    with farebox.track(feature="nightly"):
        batch_id = KINDS["openai"].submit(client)
    call = _pending._calls["openai", batch_id]
    _config.state().ledger.note(call.plan.hold_id, f"openai {batch_id}", "{", 60)
    _pending._calls.clear()
    held = row().reserved
    assert client.batches.retrieve(batch_id).status == "completed"
    assert (row().spent, row().reserved) == (0, held)
    assert "can't be read: JSONDecodeError" in caplog.text


def test_who_listens_hears_of_the_call_as_it_was_submitted(
    provider: FakeProvider, url: str, use: Any, clients: Any
) -> None:
    use(url, ORG)
    provider.background(0)
    heard: list[Any] = []
    with farebox.track(feature="nightly"):
        batch_id = KINDS["openai"].submit(clients("openai"))
    (sent,) = farebox.calls()
    farebox.flush(5)
    _pending._calls.clear()
    with signals.post_call.connected_to(lambda sender, call: heard.append(call)):
        for _ in range(3):
            KINDS["openai"].collect(clients("openai"), batch_id)
    (call,) = heard
    assert (call.call_id, call.tags, call.cost_usd) == (sent.call_id, {"feature": "nightly"}, provider.bill.usd)
    assert (call.bound_usd_nanos, call.messages) == (sent.bound_usd_nanos, ROWS)
    nothing_is_held_of(provider)
