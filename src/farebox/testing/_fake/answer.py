"""What the model wants to say, and what it gets to say under the cap of the request."""

from __future__ import annotations

from collections.abc import Callable

import attrs
from attrs.validators import ge, optional

from farebox.testing._fake.dialect import Ask, OtherWork, Piece, Reply
from farebox.testing._fake.prices import CONTAINER_PICOS, FILE_SEARCH_PICOS, MILLI_USD_PICOS, PRICES, Charge

DEFAULT_OUTPUT_TOKENS = 300
TOKENS_PER_CHUNK = 8
SEARCH_TOKENS = 1_000  # what a search puts in front of the model, which then reads everything once more
FIXED_SEARCH_TOKENS = 8_000  # of a search on the web for the models below, whatever is found
FIXED_SEARCH_MODELS = ("gpt-4o-mini", "gpt-4.1-mini")
DRAWN_INPUT_TOKENS = 60  # of a picture that a tool draws
DRAWN_OUTPUT_TOKENS = 4_160
WORD = "abc "  # one token of generated text: four bytes, as `count_tokens` counts

Tokenizer = Callable[[str], int]


def count_tokens(text: str) -> int:
    """The default tokenizer: a token per four bytes of UTF-8, rounded up."""
    return -(-len(text.encode()) // 4)


@attrs.frozen(kw_only=True)
class Answer:
    """What the model wants to say to one request; the cap of the request is obeyed.

    `output_tokens` holds the reasoning; None: the reasoning and what `text` needs, 300 without a text.
    Without a `text` the visible part is `"abc "` once per token. With `n` choices each of them says this much.
    `cached_tokens` and the written ones are parts of the prompt, and at most all of it.
    `input_tokens` makes the prompt count as that many tokens, whatever it is.
    `overrun_tokens` is how far the answer may pass the cap: real ones do by one or two, some servers ignore it.
    `served_model` answers, and is charged, in place of the model asked for.
    `function` is called by the model, with `text` as the JSON of its arguments.
    `web_searches` are made and charged, as far as the request allows them; after each the whole prompt is read again.
    So are `file_searches`, and `pictures` by a tool that draws.  `runs_code` in a container, if the request has one made.
    `others` is what other models did for an answer of Claude's; each has a line of its own on the bill.
    A video that `fails` does so in the background, and is not charged.
    """

    output_tokens: int | None = attrs.field(default=None, validator=optional(ge(0)))
    reasoning_tokens: int = attrs.field(default=0, validator=ge(0))
    cached_tokens: int = attrs.field(default=0, validator=ge(0))
    cache_write_tokens: int = attrs.field(default=0, validator=ge(0))
    cache_write_1h_tokens: int = attrs.field(default=0, validator=ge(0))
    text: str | None = None
    input_tokens: int | None = attrs.field(default=None, validator=optional(ge(0)))
    overrun_tokens: int = attrs.field(default=0, validator=ge(0))
    served_model: str | None = None
    function: str = ""
    web_searches: int = attrs.field(default=0, validator=ge(0))
    file_searches: int = attrs.field(default=0, validator=ge(0))
    pictures: int = attrs.field(default=0, validator=ge(0))
    runs_code: bool = False
    others: tuple[OtherWork, ...] = attrs.field(default=(), converter=tuple)
    fails: bool = False

    def __attrs_post_init__(self) -> None:
        if self.output_tokens is not None and self.reasoning_tokens > self.output_tokens:
            raise ValueError(
                f"reasoning_tokens={self.reasoning_tokens} are part of output_tokens={self.output_tokens}, not more"
            )


def compose(answer: Answer, ask: Ask, count: Tokenizer, *, response_id: str, created: int, chunks: int | None) -> Reply:
    """Cut the answer to the cap and split it into `chunks` pieces (None: one per eight tokens or so)."""
    wanted = answer.output_tokens
    if wanted is None and ask.makes is not None:
        wanted = ask.makes
    if wanted is None:
        wanted = answer.reasoning_tokens + (DEFAULT_OUTPUT_TOKENS if answer.text is None else count(answer.text))
    cut = ask.cap is not None and wanted > ask.cap
    output = wanted if ask.cap is None else min(wanted, ask.cap + answer.overrun_tokens)
    reasoning = min(answer.reasoning_tokens, output)
    visible = output - reasoning
    if answer.text is None:
        text = WORD * visible
    else:
        text = _prefix(answer.text, visible, count) if cut else answer.text

    searches = min(answer.web_searches, ask.most_searches)
    left = ask.input_tokens if answer.input_tokens is None else answer.input_tokens
    found_tokens = FIXED_SEARCH_TOKENS if ask.model.startswith(FIXED_SEARCH_MODELS) else SEARCH_TOKENS
    left += searches * left + found_tokens * searches * (searches + 1) // 2
    file_searches, pictures = min(answer.file_searches, ask.most_file_searches), min(answer.pictures, ask.most_pictures)
    left += file_searches * SEARCH_TOKENS
    input_tokens = left
    charges = [] if answer.fails else list(ask.charges)
    if file_searches:
        charges.append(Charge("file searches", file_searches, FILE_SEARCH_PICOS))
    if answer.runs_code and ask.container:
        charges.append(Charge("containers", 1, CONTAINER_PICOS[ask.container] * MILLI_USD_PICOS))
    if pictures:
        charges += drawn(ask.draws, pictures)
    left -= (cached := min(answer.cached_tokens, left))
    left -= (write := min(answer.cache_write_tokens, left))
    write_1h = min(answer.cache_write_1h_tokens, left)
    return Reply(
        response_id=response_id,
        created=created,
        model=answer.served_model or ask.model,
        text=text,
        pieces=_pieces(text, visible, chunks),
        choices=ask.choices,
        input_tokens=input_tokens,
        cached_tokens=cached,
        cache_write_tokens=write,
        cache_write_1h_tokens=write_1h,
        output_tokens=output * ask.choices,
        reasoning_tokens=reasoning * ask.choices,
        cut=cut,
        shown=ask.choices if ask.shown is None else ask.shown,
        function=answer.function,
        searches=searches,
        file_searches=file_searches,
        pictures=pictures,
        runs_code=answer.runs_code and bool(ask.container),
        image_tokens=min(ask.image_tokens, left),
        audio_tokens=min(ask.audio_tokens, left),
        charges=tuple(charges),
        others=answer.others,
        failed=answer.fails,
    )


def drawn(model: str, pictures: int) -> list[Charge]:
    """What a tool that draws charges: at the prices of its own model."""
    price = PRICES[model]
    return [
        Charge("tokens to draw", pictures * DRAWN_INPUT_TOKENS, price.input),
        Charge("tokens drawn", pictures * DRAWN_OUTPUT_TOKENS, price.output),
    ]


def _prefix(text: str, tokens: int, count: Tokenizer) -> str:
    """The longest beginning of the text that is at most so many tokens."""
    if count(text) <= tokens:
        return text
    fits, too_long = 0, len(text)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if count(text[:middle]) <= tokens:
            fits = middle
        else:
            too_long = middle
    return text[:fits]


def _pieces(text: str, tokens: int, chunks: int | None) -> tuple[Piece, ...]:
    if not tokens and not text:
        return ()
    wanted = -(-tokens // TOKENS_PER_CHUNK) if chunks is None else chunks
    number = max(1, min(wanted, tokens, len(text)))
    edges = [tokens * index // number for index in range(number + 1)]
    cuts = [len(text) * edge // tokens for edge in edges] if tokens else [0, len(text)]
    return tuple(Piece(text[cuts[index] : cuts[index + 1]], edges[index + 1] - edges[index]) for index in range(number))
