"""Pictures, sound and video through the real SDK: held before they are sent, paid as the bill says, refused when short."""

from __future__ import annotations

import asyncio
import io
import wave
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import openai
import pytest

import farebox
from farebox import BudgetExceeded, budget, report, track
from farebox.testing import FakeProvider
from tests.acceptance.rides import OPENAI, nothing_is_left

pytestmark = [
    pytest.mark.usefixtures("metered"),
    # The SDK says so of endpoints whose end is announced: they are billed until then.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

PROMPT = "a cat on a mat"
TEXT = "hello there, how are you?"


def recording(seconds: float, rate: int = 8_000) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(rate)
        written.writeframes(bytes(int(seconds * rate) * 2))
    return file.getvalue()


SOUND = recording(90)


def sdk_has(client: Any, path: str) -> Any:
    """What the SDK has there; skips where this version of it has nothing."""
    for name in path.split("."):
        if not hasattr(client, name):
            pytest.skip(f"openai {openai.VERSION} has no {path}")
        client = getattr(client, name)
    return client


@attrs.frozen
class Surface:
    """An endpoint: where the SDK has it, what is asked, and what it costs by hand."""

    path: str
    words: dict[str, Any]
    usd: str
    operation: str

    def __str__(self) -> str:
        return "-".join([self.path, *(str(word) for name, word in self.words.items() if name in ("model", "size"))])

    def api(self, client: Any) -> Any:
        return sdk_has(client, self.path)


PICTURE = {"prompt": PROMPT, "n": 2, "size": "1024x1024"}
# 4 tokens of prompt at 5, 4,160 drawn at 40 per million each; 4,483 for a picture that goes in at 10.
SURFACES = [
    Surface("images.generate", {"model": "gpt-image-1", "quality": "high", **PICTURE}, "0.33282", "image_generation"),
    Surface("images.generate", {"model": "gpt-image-1", "quality": "low", **PICTURE}, "0.02178", "image_generation"),
    Surface("images.generate", {"model": "dall-e-3", "quality": "hd", **PICTURE}, "0.16", "image_generation"),
    Surface("images.edit", {"model": "gpt-image-1", "image": SOUND, **PICTURE}, "0.37765", "image_generation"),
    Surface(
        "images.create_variation", {"model": "dall-e-2", "image": SOUND, "size": "256x256"}, "0.016", "image_generation"
    ),
    Surface("audio.speech", {"model": "tts-1", "input": TEXT, "voice": "alloy"}, "0.000375", "speech"),
    Surface("audio.speech", {"model": "tts-1-hd", "input": TEXT, "voice": "alloy"}, "0.00075", "speech"),
    Surface("audio.transcriptions", {"model": "whisper-1", "file": ("a.wav", SOUND)}, "0.009", "transcription"),
    Surface("audio.transcriptions", {"model": "gpt-transcribe", "file": ("a.wav", SOUND)}, "0.00675", "transcription"),
    # 900 tokens of sound at 6, 300 written at 10 per million.
    Surface(
        "audio.transcriptions", {"model": "gpt-4o-transcribe", "file": ("a.wav", SOUND)}, "0.0084", "transcription"
    ),
    Surface("audio.translations", {"model": "whisper-1", "file": ("a.wav", SOUND)}, "0.009", "translation"),
    Surface("containers", {"name": "c", "memory_limit": "4g"}, "0.12", "container"),
]
EVERY = pytest.mark.parametrize("surface", SURFACES, ids=str)
METHODS = {"images.generate", "images.edit", "images.create_variation"}


@pytest.fixture
def client(provider: FakeProvider, open_client: Callable[..., Any]) -> Any:
    return open_client(OPENAI)


def method(surface: Surface, client: Any) -> Any:
    found = surface.api(client)
    return found if surface.path in METHODS else found.create


def plain(surface: Surface, client: Any) -> Any:
    return method(surface, client)(**surface.words)


def raw(surface: Surface, client: Any) -> Any:
    parent, _, name = surface.path.rpartition(".") if surface.path in METHODS else (surface.path, "", "create")
    api = Surface(parent, {}, "", "").api(client)
    return getattr(api.with_raw_response, name)(**surface.words).parse()


def read_bytes(surface: Surface, client: Any) -> Any:
    parent, _, name = surface.path.rpartition(".") if surface.path in METHODS else (surface.path, "", "create")
    api = Surface(parent, {}, "", "").api(client)
    with getattr(api.with_streaming_response, name)(**surface.words) as response:
        return response.read()


def books_agree(provider: FakeProvider, surface: Surface) -> None:
    (line,), (record,) = provider.bill.lines, farebox.calls()
    assert record.usd == line.usd == Decimal(surface.usd), provider.bill_table()
    assert record.bound_usd >= record.usd
    assert (record.operation_name, record.outcome) == (surface.operation, "completed")
    assert (record.cost_source, record.doubt) == ("list", "")
    nothing_is_left()


@pytest.mark.parametrize("way", [plain, raw, read_bytes], ids=lambda way: way.__name__)
@EVERY
def test_what_it_costs_is_held_and_paid(
    surface: Surface, way: Callable[..., Any], provider: FakeProvider, client: Any
) -> None:
    with track(feature="media"), budget(usd=5) as b:
        way(surface, client)
        assert b.spent_usd == provider.bill.usd
    books_agree(provider, surface)
    assert farebox.calls()[0].tags == {"feature": "media"}


@EVERY
def test_what_it_costs_is_held_and_paid_by_an_async_client(surface: Surface, provider: FakeProvider) -> None:
    async def main() -> None:
        async with OPENAI.async_client(provider) as client:
            with budget(usd=5):
                await method(surface, client)(**surface.words)

    asyncio.run(main())
    books_agree(provider, surface)


@EVERY
def test_a_budget_that_it_does_not_fit_sends_nothing(surface: Surface, provider: FakeProvider, client: Any) -> None:
    short = Decimal(surface.usd) - Decimal("0.000001")
    with budget(usd=short) as b, pytest.raises(BudgetExceeded, match="needs"):
        plain(surface, client)
    assert (provider.bill.calls, provider.requests, b.spent_usd) == (0, [], 0)
    assert report().total.refused_calls == 1


@EVERY
def test_one_that_fails_costs_nothing(surface: Surface, provider: FakeProvider, client: Any) -> None:
    provider.fail(400)
    with budget(usd=5) as b:
        with pytest.raises(Exception, match="told to fail"):
            plain(surface, client)
        assert (b.spent_usd, b.reserved_usd) == (0, 0)


@pytest.mark.parametrize("edits", [False, True], ids=["generate", "edit"])
def test_a_stream_of_pictures_is_paid_with_those_shown_before_the_last(
    edits: bool, provider: FakeProvider, client: Any
) -> None:
    words = {"model": "gpt-image-1", "prompt": PROMPT, "size": "1024x1536", "quality": "high"}
    api, more = (client.images.edit, {"image": SOUND}) if edits else (client.images.generate, {})
    with budget(usd=5):
        kinds = [event.type for event in api(**words, **more, stream=True, partial_images=2)]
    assert len(kinds) == 3
    (record,) = farebox.calls()
    assert record.usd == provider.bill.usd
    assert record.usage is not None
    assert (record.usage.output_image_tokens, record.is_stream) == (6_240 + 200, True)
    nothing_is_left()


def test_a_stream_of_pictures_that_is_left_is_never_below_its_bill(provider: FakeProvider, client: Any) -> None:
    provider.pace(0.05)
    with budget(usd=5):
        events = client.images.generate(
            model="gpt-image-1", prompt=PROMPT, quality="high", stream=True, partial_images=3
        )
        next(events)
        events.close()
    (record,) = farebox.calls()
    assert record.usd is not None
    assert record.usd >= provider.bill.usd
    assert (record.outcome, record.cost_source) == ("closed", "estimated")


def test_a_form_that_a_model_does_not_answer_in_costs_nothing(provider: FakeProvider, client: Any) -> None:
    with budget(usd=1) as b, pytest.raises(openai.BadRequestError, match="response_format"):
        client.audio.transcriptions.create(
            model="gpt-4o-transcribe", file=("talk.wav", recording(1)), response_format="verbose_json"
        )
    assert b.spent_usd == provider.bill.usd == 0
    nothing_is_left()


def test_a_transcription_that_streams_is_paid_by_its_last_event(provider: FakeProvider, client: Any) -> None:
    provider.answer(output_tokens=40)
    with budget(usd=5):
        list(client.audio.transcriptions.create(model="gpt-4o-transcribe", file=("a.wav", SOUND), stream=True))
    (record,) = farebox.calls()
    assert record.usd == provider.bill.usd == Decimal("0.0058")
    nothing_is_left()


@pytest.mark.parametrize("form", ["text", "srt", "verbose_json"])
def test_an_answer_without_usage_is_paid_by_what_the_file_says_of_its_length(
    form: str, provider: FakeProvider, client: Any
) -> None:
    client.audio.transcriptions.create(model="whisper-1", file=("a.wav", SOUND), response_format=form)
    (record,) = farebox.calls()
    assert record.usd is not None
    assert Decimal(0) <= record.usd - provider.bill.usd <= Decimal("0.0000001")
    assert (record.cost_source, record.doubt) == (
        ("list", "") if form == "verbose_json" else ("estimated", "the answer has no usage")
    )


def test_a_recording_that_can_not_be_looked_into_is_held_by_its_size(provider: FakeProvider, client: Any) -> None:
    unreadable = b"\x1a\x45\xdf\xa3" + bytes(160_000)  # webm
    with budget(usd=5):
        client.audio.transcriptions.create(model="whisper-1", file=("a.webm", unreadable))
    (record,) = farebox.calls()
    assert record.usd == provider.bill.usd == Decimal("0.001")  # 10 seconds, as the provider counts
    assert record.bound_usd > record.usd * 30
    call = farebox.providers.find_provider("openai").read_request(
        "/audio/transcriptions", farebox.providers.with_files({"model": "whisper-1"}, {"file": unreadable}), ""
    )
    assert call is not None
    assert call.unbounded == ("file",)


def test_a_file_is_read_where_it_is_and_sent_whole(provider: FakeProvider, client: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(SOUND)
    client.audio.transcriptions.create(model="whisper-1", file=path)
    with path.open("rb") as opened:
        opened.seek(0)
        client.audio.transcriptions.create(model="whisper-1", file=opened)
    assert [request.body and request.body["file"] == SOUND for request in provider.requests] == [True, True]
    assert [call.usd for call in farebox.calls()] == [Decimal("0.009")] * 2


def test_speech_by_tokens_is_paid_as_it_was_held_and_says_so(provider: FakeProvider, client: Any) -> None:
    with budget(usd=1):
        client.audio.speech.create(model="gpt-4o-mini-tts", input=TEXT * 20, voice="alloy", instructions="slowly")
    (record,) = farebox.calls()
    assert record.usd is not None
    assert provider.bill.usd <= record.usd == record.bound_usd
    assert (record.cost_source, record.doubt) == ("estimated", "an answer of sound says nothing of its tokens")


def test_speech_that_streams_events_is_paid_by_the_last(provider: FakeProvider, client: Any) -> None:
    with (
        budget(usd=1),
        client.audio.speech.with_streaming_response.create(
            model="gpt-4o-mini-tts", input=TEXT, voice="alloy", stream_format="sse"
        ) as response,
    ):
        list(response.iter_lines())
    (record,) = farebox.calls()
    assert (record.usd, record.cost_source) == (provider.bill.usd, "list")
    nothing_is_left()


@pytest.mark.parametrize(
    ("usage", "doubt"),
    [
        ({"input_tokens": "many", "output_tokens": 5}, "usage.input_tokens is str"),
        ({"input_tokens": 5, "output_tokens": -1}, "usage.output_tokens is out of range"),
        ({"input_tokens": 5, "output_tokens": 0}, "usage.output_tokens is 0"),
        ([], ""),
        (None, ""),
    ],
    ids=repr,
)
def test_a_usage_of_pictures_that_can_not_be_believed_is_paid_at_its_bound(
    usage: Any, doubt: str, provider: FakeProvider, client: Any
) -> None:
    provider.odd(usage=usage)
    with budget(usd=5):
        client.images.generate(model="gpt-image-1", quality="low", **PICTURE)
    (record,) = farebox.calls()
    assert record.usd == record.bound_usd >= provider.bill.usd
    assert record.cost_source == "estimated"
    assert record.doubt.startswith(doubt)


# ── videos ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_video_is_held_until_it_is_found_finished(provider: FakeProvider, client: Any) -> None:
    provider.background(looks=2)
    with budget(usd=10) as b:
        video = sdk_has(client, "videos").create(model="sora-2-pro", prompt=PROMPT, seconds="8", size="1792x1024")
        assert (b.spent_usd, b.reserved_usd) == (0, Decimal(4))
        while video.status != "completed":
            assert b.spent_usd == 0
            video = sdk_has(client, "videos").retrieve(video.id)
        assert (b.spent_usd, b.reserved_usd) == (Decimal(4), 0)
        sdk_has(client, "videos").retrieve(video.id)
        assert b.spent_usd == provider.bill.usd == Decimal(4)
    (record,) = farebox.calls()
    assert record.usage is not None
    assert (record.usage.video_milliseconds, record.served_tier, record.operation_name) == (
        8_000,
        "1792x1024",
        "video_generation",
    )


def test_a_video_that_fails_is_given_back(provider: FakeProvider, client: Any) -> None:
    provider.answer(fails=True)
    with budget(usd=1) as b:
        video = sdk_has(client, "videos").create(model="sora-2", prompt=PROMPT)
        assert b.reserved_usd == Decimal("0.4")
        assert sdk_has(client, "videos").retrieve(video.id).status == "failed"
        assert (b.spent_usd, b.reserved_usd) == (0, 0)
    assert provider.bill.usd == 0


def test_a_video_that_does_not_fit_is_not_sent(provider: FakeProvider, client: Any) -> None:
    with budget(usd="0.39"), pytest.raises(BudgetExceeded):
        sdk_has(client, "videos").create(model="sora-2", prompt=PROMPT)
    with budget(usd="13.99"), pytest.raises(BudgetExceeded):
        sdk_has(client, "videos").remix("video_1", prompt=PROMPT)  # of an unknown model: twenty seconds of the dearest
    assert provider.requests == []


def test_a_video_made_of_another_is_paid_as_the_answer_says(provider: FakeProvider, client: Any) -> None:
    with budget(usd=20) as b:
        video = sdk_has(client, "videos").remix("video_1", prompt=PROMPT)
        sdk_has(client, "videos").retrieve(video.id)
        assert b.spent_usd == provider.bill.usd == Decimal("0.4")


def test_a_price_of_ones_own_for_a_picture_is_held_and_paid(provider: FakeProvider, client: Any) -> None:
    farebox.set_price("dall-e-3", per_image="0.5")
    with budget(usd=1) as b:
        client.images.generate(model="dall-e-3", **PICTURE)
        assert b.spent_usd == 1
        with pytest.raises(BudgetExceeded):
            client.images.generate(model="dall-e-3", prompt=PROMPT)
    assert provider.bill.calls == 1
