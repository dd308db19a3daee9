"""farebox.coverage(): what of the installed SDKs is metered, by their own source."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import json
import re
from typing import Any

import anthropic
import openai
import pytest

import farebox
from farebox import _surfaces
from farebox.types import Coverage, Surface
from tests.acceptance.rides import WITH_GOOGLE
from tests.surfaces import PAGE, PROOFS, rows


@pytest.fixture(scope="module")
def found() -> Coverage:
    return farebox.coverage()


def row(found: Coverage, provider: str, surface: str) -> Surface:
    (one,) = (row for row in found if (row.provider, row.surface) == (provider, surface))
    return one


@pytest.mark.parametrize(
    ("provider", "surface", "path", "streams", "metering"),
    [
        ("openai", "chat.completions.create", "/chat/completions", True, "metered"),
        ("openai", "responses.create", "/responses", True, "metered"),
        ("openai", "embeddings.create", "/embeddings", False, "metered"),
        ("openai", "images.generate", "/images/generations", True, "metered"),
        ("openai", "audio.speech.create", "/audio/speech", False, "metered"),
        ("openai", "moderations.create", "/moderations", False, "free"),
        ("openai", "files.create", "/files", False, "free"),
        ("openai", "beta.agents.create", "/agents", False, "free"),
        ("openai", "beta.agents.sessions.create", "/agents/sessions", True, "unmetered"),
        ("openai", "decisions.create", "/decisions", False, "metered"),
        ("openai", "fine_tuning.jobs.create", "/fine_tuning/jobs", False, "unmetered"),
        ("openai", "beta.threads.runs.create", "/threads/{thread_id}/runs", True, "metered"),
        ("anthropic", "messages.create", "/v1/messages", True, "metered"),
        ("anthropic", "messages.stream", "/v1/messages", True, "metered"),
        ("anthropic", "beta.messages.create", "/v1/messages", True, "metered"),
        ("anthropic", "beta.sessions.create", "/v1/sessions", False, "partly"),
        ("anthropic", "messages.count_tokens", "/v1/messages/count_tokens", False, "free"),
    ],
)
def test_a_surface_is_found_with_its_path_and_what_becomes_of_it(
    found: Coverage, provider: str, surface: str, path: str, streams: bool, metering: str
) -> None:
    one = row(found, provider, surface)
    assert (re.sub(r"\{\w+\}", "{thread_id}", one.path), one.metering) == (path, metering)
    assert one.modes == ("sync", "async", *(["stream"] if streams else []))
    assert (one.sdk, one.version) == (provider, importlib.import_module(provider).__version__)


def test_what_is_metered_is_shown_by_tests_to_be_exact_refused_and_unbroken_in_every_kind_it_has(
    found: Coverage,
) -> None:
    """A surface that is metered from now on needs tests with `@pytest.mark.surface(...)`, and then `make coverage`."""
    page = rows(PAGE.read_text("utf-8"))
    gaps = []
    for surface in found:
        name = f"{DISTRIBUTIONS.get(surface.sdk, surface.sdk)} {surface.surface}"
        shown = [row for title, row in page.items() if title == name or title.startswith((f"{name} ", f"{name}, "))]
        for proof in PROOFS:
            kinds = {kind for row in shown for kind in row[proof]}
            gaps += [(name, proof, " or ".join(wanted)) for wanted in kinds_of(surface) if kinds.isdisjoint(wanted)]
    assert not gaps
    assert not [(name, proof) for name, row in page.items() for proof in PROOFS if "not shown" in row[proof]]


#: What is installed, where it has another name than what is imported.
DISTRIBUTIONS = {"google.genai": "google-genai", "mistralai.client": "mistralai"}


def kinds_of(surface: Surface) -> list[tuple[str, ...]]:
    """What has to be shown of a surface: one of each."""
    if surface.metering != "metered":
        return []
    if re.search(r"(stream|connect)(_async)?$", surface.surface):  # there is no other way to read it
        kinds = {"sync": ("sync", "stream"), "async": ("async", "async stream")}
        return [kinds[mode] for mode in surface.modes if mode in kinds]
    clients = [mode for mode in surface.modes if mode != "stream"]
    streams = [("stream",) if mode == "sync" else ("async stream",) for mode in clients if "stream" in surface.modes]
    return [*((mode,) for mode in clients), *streams]


def test_nothing_that_generates_is_unmetered(found: Coverage) -> None:
    """What makes text, pictures, sound and vectors; voices and consents are kept things, and websockets are noticed."""
    generates = re.compile(
        r"(beta\.)?(chat\.completions|completions|responses|messages|embeddings|images"
        r"|audio\.(speech|transcriptions|translations))\.\w+"
    )
    rows = [row for row in found if row.sdk in ("openai", "anthropic") and generates.fullmatch(row.surface)]
    assert len(rows) >= 12
    assert not [row for row in rows if row.metering == "unmetered" and not row.path.startswith("websocket ")]


def test_every_path_that_is_written_in_the_resources_of_an_sdk_is_in_a_row(found: Coverage) -> None:
    """Counted another way: a POST with its path beside it, by a search in the text of the chat and message files."""
    for provider, module in (
        ("openai", openai.resources.chat.completions),
        ("anthropic", anthropic.resources.messages),
    ):
        name = "completions" if provider == "openai" else "messages"
        text = inspect.getsource(importlib.import_module(f"{module.__name__}.{name}"))
        written = set(re.findall(r'self\._post,?\(?\s*"(/[^"?]+)', text))
        assert written
        assert written <= {row.path for row in found if row.provider == provider}


def test_a_websocket_is_shown_as_unmetered_where_nobody_reads_it(found: Coverage) -> None:
    if not hasattr(openai.resources.realtime.Realtime, "connect"):
        pytest.skip("this openai opens no websocket")
    is_read = importlib.util.find_spec("openai._websocket_connection") is not None
    read = {
        "realtime": "/realtime",
        "responses": "/responses",
        "live": "/live/sessions",
    }  # as far as this openai has them
    opened = {
        one.surface.removesuffix(".connect"): one
        for one in found
        if one.provider == "openai" and one.path.startswith("websocket ")
    }
    assert "realtime" in opened
    for name, one in opened.items():
        assert one.metering == ("metered" if is_read and name in read else "unmetered")
        assert one.path == f"websocket {read.get(name, one.path.removeprefix('websocket '))}"


@WITH_GOOGLE
def test_googles_live_sessions_are_read_and_those_that_make_music_are_not(found: Coverage) -> None:
    (live,) = (one for one in found if one.surface == "live.connect" and one.provider == "google")
    assert (live.path, live.modes, live.metering) == ("websocket live.connect", ("async", "stream"), "metered")
    assert row(found, "google", "live.music.connect").metering == "unmetered"


@WITH_GOOGLE
def test_of_googles_sdk_it_knows_what_it_reads_in_part(found: Coverage) -> None:
    rows = {(row.surface, row.path.rpartition(":")[2]): row for row in found if row.provider == "google"}
    assert rows["models.generate_content", "generateContent"].metering == "metered"
    assert rows["models.generate_content_stream", "streamGenerateContent"].modes == ("sync", "async", "stream")
    assert rows["models.count_tokens", "countTokens"].metering == "free"
    assert rows["models.generate_videos", "predictLongRunning"].metering == "metered"
    assert rows["models.generate_images", "predict"].metering == "metered"
    assert rows["interactions.create", "/{api_version}/interactions"].metering == "partly"
    assert rows["batches.create", "batchGenerateContent"].metering == "metered"
    assert rows["batches.create", "/batchPredictionJobs"].metering == "unmetered"
    assert rows["caches.create", "/cachedContents"].metering == "metered"
    decisions = rows.get(("decisions.create", "/{api_version}/decisions"))  # since 3.4 or so
    assert decisions is None or decisions.metering == "metered"
    assert rows["webhooks.create", "/{api_version}/webhooks"].metering == "free"
    assert rows["tunings.tune", "/tuningJobs"].metering == "unmetered"


def test_of_mistrals_sdk_it_finds_what_is_named_and_what_hangs_on_that(found: Coverage) -> None:
    pytest.importorskip("mistralai", reason="mistralai is not installed")
    rows = {row.surface: row for row in found if row.provider == "mistral"}
    assert (rows["chat.complete"].path, rows["chat.complete"].metering) == ("/v1/chat/completions", "metered")
    assert rows["chat.stream"].modes == ("sync", "async", "stream")
    assert rows["audio.transcriptions.complete"].metering == "metered"
    assert rows["files.upload"].metering == "free"
    assert rows["agents.complete"].metering == rows["beta.conversations.start"].metering == "unmetered"


def test_of_coheres_sdk_it_finds_what_its_raw_clients_send(found: Coverage) -> None:
    pytest.importorskip("cohere", reason="cohere is not installed")
    rows = {row.surface: row for row in found if row.provider == "cohere"}
    assert (rows["v2.chat"].path, rows["v2.chat"].metering) == ("/v2/chat", "metered")
    assert rows["v2.chat_stream"].modes == ("sync", "async", "stream")
    assert rows["v2.rerank"].metering == rows["generate"].metering == "metered"
    assert rows["tokenize"].metering == "free"
    assert rows["classify"].metering == "unmetered"


# Resources of an SDK of tomorrow, in the ways that SDKs write a request.


class Dreams(openai.resources.moderations.SyncAPIResource):
    def create(self, *, stream: bool = False) -> Any:
        return self._post("/dreams?beta=true", cast_to=object, stream=stream)

    def extend(self, dream_id: str) -> Any:
        return self._post(f"/dreams/{dream_id}/extend", cast_to=object)

    def create_and_poll(self) -> Any:
        return self.create()

    def stream(self) -> Any:
        return functools.partial(self._post, "/dreams/stream", stream=True)

    def search(self) -> Any:
        return self._get_api_list("/dreams/search", page=object, model=object, method="post")  # type: ignore[arg-type, type-var]

    def somewhere(self, path: str) -> Any:
        return self._post(path, cast_to=object)

    def retrieve(self) -> Any:
        return self._get("/dreams", cast_to=object)

    def check(self) -> Any:
        return self._post("/moderations", cast_to=object)


def test_a_resource_of_a_later_sdk_shows_as_unmetered(monkeypatch: pytest.MonkeyPatch) -> None:
    dreams = functools.cached_property(lambda client: Dreams(client))
    dreams.__set_name__(openai.OpenAI, "dreams")
    monkeypatch.setattr(openai.OpenAI, "dreams", dreams, raising=False)
    rows = {row.surface: row for row in farebox.coverage() if row.surface.startswith("dreams.")}
    assert {name.removeprefix("dreams."): (row.path, row.metering) for name, row in rows.items()} == {
        "create": ("/dreams", "unmetered"),
        "extend": ("/dreams/{id}/extend", "unmetered"),
        "create_and_poll": ("/dreams", "unmetered"),
        "stream": ("/dreams/stream", "unmetered"),
        "search": ("/dreams/search", "unmetered"),
        "somewhere": (_surfaces.UNKNOWN_PATH, "unmetered"),
        "check": ("/moderations", "free"),
    }
    assert rows["dreams.create"].modes == ("sync", "stream")


def test_an_sdk_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch, found: Coverage) -> None:
    from farebox.providers import find_provider

    monkeypatch.setattr(type(find_provider("anthropic")), "sdk", "an_sdk_that_nobody_has")
    assert {row.provider for row in farebox.coverage()} == {row.provider for row in found} - {"anthropic"}


def test_it_prints_as_a_table_with_its_sums(found: Coverage) -> None:
    head, *lines = str(found).splitlines()
    assert head.split() == ["provider", "sdk", "version", "surface", "path", "modes", "metering"]
    assert sum(line.startswith(("openai ", "anthropic ", "google ", "mistral ", "cohere ")) for line in lines) == len(
        found
    )
    metered = sum(row.provider == "openai" and row.metering == "metered" for row in found)
    assert f"openai: {metered} metered, " in lines[-1]
    assert repr(found) == str(found)


def test_the_rows_can_be_written_down(found: Coverage) -> None:
    import attrs

    assert json.loads(json.dumps([attrs.asdict(row) for row in found]))
