"""Pictures and videos of Vertex AI: held before they are asked for, paid as the bill says, refused when short."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import attrs
import pytest

pytest.importorskip("google.genai", reason="google-genai is not installed")

from google import genai
from google.genai import errors, types

import farebox
from farebox import BudgetExceeded, budget, track
from farebox.errors import UnpricedModel
from farebox.testing import FakeProvider
from tests.acceptance.google_clients import run, vertex_client
from tests.acceptance.rides import attempt, nothing_is_left, only_record

pytestmark = [
    pytest.mark.usefixtures("metered"),
    # The SDK says so of methods whose end is announced: they are billed until then.
    pytest.mark.filterwarnings("ignore:The .* method is deprecated"),
]

PROMPT = "a cat on a mat"
PICTURE = types.Image(image_bytes=b"picture", mime_type="image/png")
CLOTHES = types.RecontextImageSource(person_image=PICTURE, product_images=[types.ProductImage(product_image=PICTURE)])
REFERENCE = types.RawReferenceImage(reference_id=1, reference_image=PICTURE)
SEGMENTS = types.SegmentImageSource(image=PICTURE)


@pytest.fixture
def vertex(provider: FakeProvider) -> Iterator[genai.Client]:
    with vertex_client(provider) as client:
        yield client


@attrs.frozen
class Surface:
    """A method of `models`, what it is asked, and what that costs by hand."""

    name: str
    words: dict[str, Any]
    usd: str

    def __str__(self) -> str:
        return f"{self.name}-{self.words['model']}"

    def ask(self, client: Any) -> Any:
        return getattr(client.models, self.name)(**self.words)


SURFACES = [
    # Four pictures where a request does not say how many.
    Surface("generate_images", {"model": "imagen-4.0-generate-001", "prompt": PROMPT}, "0.16"),
    Surface(
        "generate_images",
        {"model": "imagen-4.0-ultra-generate-001", "prompt": PROMPT, "config": {"number_of_images": 2}},
        "0.12",
    ),
    Surface(
        "edit_image",
        {
            "model": "imagen-3.0-capability-001",
            "prompt": PROMPT,
            "reference_images": [REFERENCE],
            "config": {"number_of_images": 1},
        },
        "0.04",
    ),
    Surface("upscale_image", {"model": "imagen-4.0-upscale-preview", "image": PICTURE, "upscale_factor": "x2"}, "0.06"),
    Surface(
        "recontext_image",
        {"model": "virtual-try-on-001", "source": CLOTHES, "config": {"number_of_images": 3}},
        "0.18",
    ),
]
EVERY = pytest.mark.parametrize("surface", SURFACES, ids=str)


@pytest.mark.surface("google-genai models.{surface.name}", kind="sync", proves=["exact", "unbroken"])
@EVERY
def test_pictures_are_paid_at_the_providers_price(surface: Surface, provider: Any, vertex: Any) -> None:
    with track(feature="media"), budget(usd=1) as paid:
        assert surface.ask(vertex).generated_images
    record = only_record()
    assert record.usd == paid.spent_usd == provider.bill.usd == record.bound_usd == Decimal(surface.usd)
    assert (record.outcome, record.cost_source, record.operation_name) == ("completed", "list", "image_generation")
    assert (record.provider_name, record.tags) == ("gcp.vertex_ai", {"feature": "media"})
    nothing_is_left()


@pytest.mark.surface("google-genai models.{surface.name}", kind="async", proves=["exact", "unbroken"])
@EVERY
def test_pictures_are_paid_by_an_async_client_too(surface: Surface, provider: Any, vertex: Any) -> None:
    with budget(usd=1) as paid:
        assert run(vertex, surface.ask).generated_images
    assert paid.spent_usd == provider.bill.usd == Decimal(surface.usd)
    nothing_is_left()


@pytest.mark.surface("google-genai models.{surface.name}", kind=["sync", "async"], proves="refused")
@EVERY
def test_pictures_that_do_not_fit_are_not_sent(surface: Surface, provider: Any, vertex: Any) -> None:
    short = Decimal(surface.usd) - Decimal("0.000001")
    for ask in (surface.ask, lambda client: run(client, surface.ask)):
        for mode in ("block", "downgrade", "clamp"):
            with budget(usd=short, on_exceed=mode), pytest.raises(BudgetExceeded, match="needs"):
                ask(vertex)
    assert not provider.requests


def test_a_picture_that_was_filtered_is_none(provider: Any, vertex: Any) -> None:
    words: Any = {"model": "imagen-4.0-generate-001", "prompt": f"{PROMPT} (filtered)"}
    with budget(usd=1) as paid:
        assert len(vertex.models.generate_images(**words, config={"include_rai_reason": True}).generated_images) == 4
    assert paid.spent_usd == provider.bill.usd == Decimal("0.12")


@pytest.mark.parametrize("body", [b"{}", b'{"predictions": 3}', b"[]"], ids=repr)
def test_an_answer_that_says_nothing_of_pictures_is_paid_as_it_was_held(
    body: bytes, provider: Any, vertex: Any
) -> None:
    provider.odd(body=body)
    with budget(usd=1):
        attempt(lambda: vertex.models.generate_images(model="imagen-4.0-generate-001", prompt=PROMPT))
    assert (only_record().usd, only_record().cost_source) == (provider.bill.usd, "estimated")
    nothing_is_left()


@pytest.mark.surface("google-genai models.segment_image", kind="{kind}", proves=["exact", "unbroken", "refused"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_what_nobody_publishes_a_price_of_is_refused_until_it_has_one(provider: Any, kind: str) -> None:
    def segment(client: Any) -> Any:
        return client.models.segment_image(model="image-segmentation-001", source=SEGMENTS)

    def ask() -> Any:
        with vertex_client(provider) as client:
            return segment(client) if kind == "sync" else run(client, segment)

    with budget(usd=1), pytest.raises(UnpricedModel, match="image-segmentation-001"):
        ask()
    assert not provider.requests
    farebox.set_price("image-segmentation-001", per_image="0.25")
    with budget(usd=1) as paid:
        assert len(ask().generated_masks) == 3
        assert paid.spent_usd == Decimal("0.25")
    with budget(usd="0.24"), pytest.raises(BudgetExceeded):
        ask()
    assert len(provider.requests) == 1


def test_pictures_that_are_refused_by_the_server_cost_nothing(provider: Any, vertex: Any) -> None:
    provider.fail(400)
    with budget(usd=1) as paid, pytest.raises(errors.ClientError):
        SURFACES[0].ask(vertex)
    assert paid.spent_usd == 0
    nothing_is_left()


# ── videos ───────────────────────────────────────────────────────────────────────────────────────────────────────


def videos(client: Any, **config: Any) -> Any:
    model = config.pop("model", "veo-3.1-fast-generate-001")
    source = types.GenerateVideosSource(prompt=config.pop("prompt", PROMPT))
    return client.models.generate_videos(model=model, source=source, config=config)


def sync_look(client: Any, operation: Any) -> Any:
    return client.operations.get(operation)


def async_look(client: Any, operation: Any) -> Any:
    return run(client, lambda aio: aio.operations.get(operation))


@pytest.mark.surface("google-genai models.generate_videos", kind="{kind}", proves=["exact", "unbroken"])
@pytest.mark.parametrize(("kind", "look"), [("sync", sync_look), ("async", async_look)])
@pytest.mark.parametrize(
    ("config", "usd"),
    [
        ({"number_of_videos": 1, "duration_seconds": 6, "resolution": "1080p"}, "0.72"),
        ({"number_of_videos": 2}, "1.6"),
        ({"model": "veo-3.1-generate-001", "number_of_videos": 1, "resolution": "4k"}, "4.8"),
    ],
)
def test_videos_are_held_until_they_are_found_made(
    kind: str, look: Callable[[Any, Any], Any], config: dict[str, Any], usd: str, provider: Any, vertex: Any
) -> None:
    provider.background(looks=2)
    with track(feature="media"), budget(usd=10) as b:
        if kind == "sync":
            operation = videos(vertex, **config)
        else:
            operation = run(vertex, lambda aio: videos(aio, **config))
            vertex = vertex_client(provider)  # as each loop has its own
        assert (b.spent_usd, b.reserved_usd) == (0, Decimal(usd))
        while not operation.done:
            assert b.spent_usd == 0
            operation = look(vertex, operation)
            vertex = vertex if kind == "sync" else vertex_client(provider)
        assert len(operation.result.generated_videos) == config["number_of_videos"]
        assert (b.spent_usd, b.reserved_usd) == (provider.bill.usd, 0) == (Decimal(usd), 0)
        look(vertex, operation)
        assert b.spent_usd == Decimal(usd)
    record = only_record()
    assert (record.operation_name, record.cost_source, record.doubt) == ("video_generation", "list", "")
    assert (record.tags, record.response_id) == ({"feature": "media"}, provider.bill.lines[0].response_id)


@pytest.mark.surface("google-genai models.generate_videos", kind=["sync", "async"], proves="refused")
def test_videos_that_do_not_fit_are_not_sent(provider: Any, vertex: Any) -> None:
    with budget(usd="0.79"), pytest.raises(BudgetExceeded):
        videos(vertex, number_of_videos=1)
    with budget(usd="3.19"), pytest.raises(BudgetExceeded):
        run(vertex, videos)  # four of eight seconds, where nobody says how many
    assert not provider.requests


def test_a_video_that_fails_is_given_back(provider: Any, vertex: Any) -> None:
    provider.answer(fails=True)
    with budget(usd=1) as b:
        operation = videos(vertex, number_of_videos=1)
        assert b.reserved_usd == Decimal("0.8")
        assert vertex.operations.get(operation).error
        assert (b.spent_usd, b.reserved_usd) == (0, 0)
    assert provider.bill.usd == 0


def test_many_at_once_get_what_there_is_and_are_settled_once_however_many_look(provider: Any, vertex: Any) -> None:
    made: list[Any] = []

    def ask() -> None:
        with contextlib.suppress(BudgetExceeded):
            made.append(videos(vertex, number_of_videos=1))

    def look() -> None:
        for operation in made:
            vertex.operations.get(operation)

    def at_once(does: Callable[[], None], count: int) -> None:
        threads = [threading.Thread(target=does) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    with budget(usd=4, patience=0) as b:
        at_once(ask, 20)
        assert (len(made), b.reserved_usd, b.spent_usd) == (5, 4, 0)
        at_once(look, 4)
        assert (b.reserved_usd, b.spent_usd) == (0, provider.bill.usd) == (0, 4)


@pytest.mark.parametrize("asked", [1, 2])
def test_a_video_that_was_filtered_is_none(asked: int, provider: Any, vertex: Any) -> None:
    with budget(usd=5) as b:
        operation = videos(vertex, prompt=f"{PROMPT} (filtered)", number_of_videos=asked)
        vertex.operations.get(operation)
        assert b.spent_usd == provider.bill.usd == Decimal("0.8") * (asked - 1)
    nothing_is_left()


def test_videos_are_paid_whatever_stands_beside_them(provider: FakeProvider, vertex: Any) -> None:
    vertex.operations.get(videos(vertex, number_of_videos=1))
    path, billed = provider.requests[-1].path, provider.bill.usd
    with budget(usd=10) as paid:
        operation = videos(vertex, number_of_videos=1)
        made = {"name": operation.name, "done": True, "error": {}, "response": {"videos": [{"gcsUri": "gs://a/b"}]}}
        provider.serve(path, made)
        vertex.operations.get(operation)
    assert (paid.spent_usd, paid.reserved_usd) == (billed, 0)
