"""The rates of one model: what its tokens and its units cost, and the most they can cost.

All rates are integer picodollars per token.  A model with long-context prices has several steps: the step is chosen by
all input tokens of the call (cached ones too) and applies to every token of it, also to the output.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from operator import mul
from typing import Final, Literal

import attrs

from farebox._call import NO_UNITS, UNITS, Usage
from farebox._money import PICOS_PER_NANO, picos_to_nanos

_TEXT: Final = Usage._fields.index("uncached_input_tokens")
_SAID: Final = Usage._fields.index("visible_output_tokens")
_ZEROS: Final = len(Usage._fields) - 2
_FIRST_UNIT: Final = len(Usage._fields) - len(UNITS)
_PLACE_OF_UNIT: Final = {name: place for place, name in enumerate(UNITS)}

CacheWrite = Literal["none", "known", "5m", "30m", "1h", "12h"]

# The place of each level in `Step.input_bounds`.
_LEVELS: Final[dict[str, int]] = {"none": 0, "known": 1, "5m": 2, "30m": 3, "1h": 4, "12h": 5}

_BUCKETS: Final = (
    "uncached_input", "cache_read", "cache_write_5m", "cache_write_30m", "cache_write_1h", "cache_write_12h",
    "input_audio", "cache_read_audio", "input_image", "cache_read_image", "input_video",
    "visible_output", "reasoning", "output_audio", "output_image", "output_video",
)  # fmt: skip


@attrs.frozen(kw_only=True)
class Step:
    """Picodollars per token of each bucket of `Usage`, for calls of more than `above` input tokens.

    `input_bounds` are the dearest text input rates by what may be written to a cache, in the order of `_LEVELS`;
    `output_bound` is the dearer of visible text and reasoning.  Neither is below that of an earlier step.
    """

    above: int
    uncached_input: int
    cache_read: int
    cache_write_5m: int
    cache_write_30m: int
    cache_write_1h: int
    cache_write_12h: int
    input_audio: int
    cache_read_audio: int
    input_image: int
    cache_read_image: int
    input_video: int
    visible_output: int
    reasoning: int
    output_audio: int
    output_image: int
    output_video: int
    input_bounds: tuple[int, ...]
    output_bound: int

    def input_bound(self, cache_write: CacheWrite) -> int:
        """The dearest text input rate, by what may be written to a cache.

        Raises:
            ValueError: `cache_write` is none of the levels.
        """
        try:
            return self.input_bounds[_LEVELS[cache_write]]
        except KeyError:
            raise ValueError(f"cache_write={cache_write!r} is unknown; choose from {', '.join(_LEVELS)}") from None


def unit_picos_of(known: Mapping[str, int]) -> tuple[int, ...]:
    """Picodollars of each of `UNITS`, in their order, from those that are known; a fee is what it is."""
    return tuple(PICOS_PER_NANO if name == "fees_nanos" else known.get(name, 0) for name in UNITS)


#: Of a model that has no unit but its tokens.
ONLY_FEES: Final = unit_picos_of({})


@attrs.frozen(kw_only=True)
class Rates:
    """The prices of one model, in one service tier, from `valid_from` until before `valid_until` (epoch seconds).

    Attributes:
        provider: Provider the price was found under, in genai-prices' spelling (`"openai"`, `"google"`, `"aws"`).
        matched_model: Name of the price entry; not always the name asked for.
        tier: Service tier asked for, `""` for the standard one.
        source: `"list"` or `"manual"`.
        version: Price list and version, such as `"genai-prices 0.2.3"`; `"manual"` for a price of the user's.
        request_picos: Fee of the call itself, whatever it uses.
        web_search_picos: Fee of each web search.
        unit_picos: Price of one of each of `UNITS`, in their order.
    """

    provider: str
    matched_model: str
    tier: str = ""
    source: Literal["list", "manual"] = "list"
    version: str = ""
    steps: tuple[Step, ...]
    request_picos: int = 0
    web_search_picos: int = 0
    unit_picos: tuple[int, ...] = ONLY_FEES
    valid_from: float = -math.inf
    valid_until: float = math.inf

    @property
    def is_free(self) -> bool:
        """Whether nothing a call can use costs anything."""
        return not (self.request_picos or self.web_search_picos or self.unit_picos != ONLY_FEES) and all(
            not getattr(step, bucket) for step in self.steps for bucket in _BUCKETS
        )

    def charge_nanos(self, usage: Usage) -> int:
        """Nanodollars that `usage` costs: summed exactly in picodollars, rounded up once."""
        text, said = usage[_TEXT], usage[_SAID]
        if len(self.steps) == 1 and usage.count(0) == _ZEROS and text and said:
            # Nothing cached, reasoned, spoken, drawn or searched for, as most often.
            step = self.steps[0]
            return -(-(self.request_picos + text * step.uncached_input + said * step.visible_output) // PICOS_PER_NANO)
        cached = usage.cache_read_tokens
        write_5m = usage.cache_write_5m_tokens
        write_30m = usage.cache_write_30m_tokens
        write_1h = usage.cache_write_1h_tokens
        write_12h = usage.cache_write_12h_tokens
        audio = usage.input_audio_tokens
        cached_audio = usage.cache_read_audio_tokens
        image = usage.input_image_tokens
        cached_image = usage.cache_read_image_tokens
        video = usage.input_video_tokens
        steps = self.steps
        step = steps[0]
        if len(steps) > 1:
            total = text + cached + write_5m + write_30m + write_1h + write_12h + audio + cached_audio + image
            total += cached_image + video
            if total > steps[1].above:
                step = self._step(total)

        # Most of a usage is zero, and not to multiply is the faster half of this.
        picos = self.request_picos + text * step.uncached_input + usage.visible_output_tokens * step.visible_output
        if cached:
            picos += cached * step.cache_read
        if write_5m:
            picos += write_5m * step.cache_write_5m
        if write_30m:
            picos += write_30m * step.cache_write_30m
        if write_1h:
            picos += write_1h * step.cache_write_1h
        if write_12h:
            picos += write_12h * step.cache_write_12h
        if audio:
            picos += audio * step.input_audio
        if cached_audio:
            picos += cached_audio * step.cache_read_audio
        if image:
            picos += image * step.input_image
        if cached_image:
            picos += cached_image * step.cache_read_image
        if video:
            picos += video * step.input_video
        if reasoning := usage.reasoning_tokens:
            picos += reasoning * step.reasoning
        if audio_out := usage.output_audio_tokens:
            picos += audio_out * step.output_audio
        if image_out := usage.output_image_tokens:
            picos += image_out * step.output_image
        if video_out := usage.output_video_tokens:
            picos += video_out * step.output_video
        if searches := usage.web_searches:
            picos += searches * self.web_search_picos
        units = usage[_FIRST_UNIT:]
        if any(units):
            picos += sum(map(mul, units, self.unit_picos))
        return -(-picos // PICOS_PER_NANO)

    def bound(
        self,
        input_tokens: int,
        *,
        cache_write: CacheWrite = "known",
        audio: bool = False,
        images: bool = False,
        web_searches: int = 0,
        units: Mapping[str, int] = NO_UNITS,
    ) -> tuple[int, int]:
        """The most a call can cost: nanodollars for its input and fees, and nanodollars per output token.

        For every usage of at most `input_tokens` and `n` output tokens, `charge_nanos(usage) <= first + n * second`.

        Args:
            input_tokens: At most so many, cached ones included (>= 0).
            cache_write: What the request can write to a prompt cache: `"none"` or up to the named lifetime, if it says
                so; by default every kind that has a price on the list (for Claude the dearest is 2x the input rate).
            audio: Whether audio may go in or come out.
            images: Whether images or video may go in or come out.
            web_searches: At most so many.
            units: At most so much of each of `UNITS` that is named.
        """
        step = self._step(input_tokens)
        input_rate = step.input_bound(cache_write)
        output_rate = step.output_bound
        if audio or images:
            for reached in self.steps:
                if reached.above >= input_tokens and reached is not self.steps[0]:
                    break
                if audio:
                    input_rate = max(input_rate, reached.input_audio, reached.cache_read_audio)
                    output_rate = max(output_rate, reached.output_audio)
                if images:
                    input_rate = max(input_rate, reached.input_image, reached.cache_read_image, reached.input_video)
                    output_rate = max(output_rate, reached.output_image, reached.output_video)
        picos = input_tokens * input_rate + self.request_picos + web_searches * self.web_search_picos
        for name, count in units.items():
            picos += count * self.unit_picos[_PLACE_OF_UNIT[name]]
        return -(-picos // PICOS_PER_NANO), -(-output_rate // PICOS_PER_NANO)

    def in_step(self, input_tokens: int) -> Rates:
        """The same for calls of up to so many input tokens each, however many there are; 0: of any number."""
        step = self._step(input_tokens) if input_tokens else self.steps[-1]
        return self if len(self.steps) == 1 else attrs.evolve(self, steps=(attrs.evolve(step, above=0),))

    @property
    def unit_prices(self) -> dict[str, int]:
        """`unit_picos` by the names of `UNITS`."""
        return dict(zip(UNITS, self.unit_picos, strict=True))

    @property
    def web_search_nanos(self) -> int:
        """Nanodollars per web search, rounded up."""
        return picos_to_nanos(self.web_search_picos)

    def _step(self, input_tokens: int) -> Step:
        found = self.steps[0]
        for step in self.steps[1:]:
            if input_tokens <= step.above:
                break
            found = step
        return found


def build_steps(known: Mapping[int, Mapping[str, int]]) -> tuple[Step, ...]:
    """Steps from the prices a list knows, in picodollars, by the input tokens they start above (0 for the first)."""
    return _with_rising_bounds(_step(above, known[above]) for above in sorted(known))


def merge_dearest(choices: Iterable[tuple[Step, ...]]) -> tuple[Step, ...]:
    """The dearest rate of each bucket among several rate sets, at every step any of them has."""
    sets = tuple(choices)
    merged = []
    for above in sorted({step.above for steps in sets for step in steps}):
        reached = [[step for step in steps if step.above <= above][-1] for steps in sets]
        merged.append(
            Step(
                above=above,
                **{bucket: max(getattr(step, bucket) for step in reached) for bucket in _BUCKETS},
                input_bounds=tuple(map(max, zip(*(step.input_bounds for step in reached), strict=True))),
                output_bound=max(step.output_bound for step in reached),
            )
        )
    return _with_rising_bounds(merged)


def _step(above: int, known: Mapping[str, int]) -> Step:
    """Fill what has no price of its own: with the price it is billed at if nothing is said, never with zero."""
    dearest = max(known.values(), default=0)
    text = known.get("input", dearest)
    output = known.get("output", dearest)
    cache_read = known.get("cache_read", text)
    # A cache write costs 1.25x (5 and 30 minutes), 2x (an hour) or 2.5x (12 hours) the input where the list is silent.
    # Source: https://platform.claude.com/docs/en/about-claude/pricing, https://developers.openai.com/api/docs/pricing
    # (as read for research/pricing.md, 2026-11-21).
    write = known.get("cache_write", -(-text * 5 // 4))
    write_1h = known.get("cache_write_1h", max(write, text * 2))
    write_12h = max(write, known.get("cache_write_1h", 0), -(-text * 5 // 2))
    write_5m = known.get("cache_write_5m", write)
    reasoning = known.get("reasoning", output)

    none = max(text, cache_read)
    listed = max(none, *(known.get(key, 0) for key in ("cache_write", "cache_write_5m", "cache_write_1h")))
    to_5m = max(none, write_5m)
    to_30m = max(to_5m, write)
    to_1h = max(to_30m, write_1h)
    return Step(
        above=above,
        uncached_input=text,
        cache_read=cache_read,
        cache_write_5m=write_5m,
        cache_write_30m=write,
        cache_write_1h=write_1h,
        cache_write_12h=write_12h,
        input_audio=known.get("input_audio", text),
        # Without a price for cached audio no discount is known: it costs what fresh audio does.
        cache_read_audio=known.get("cache_read_audio", known.get("input_audio", cache_read)),
        input_image=known.get("input_image", text),
        cache_read_image=known.get("cache_read_image", known.get("input_image", cache_read)),
        input_video=known.get("input_video", text),
        visible_output=output,
        reasoning=reasoning,
        output_audio=known.get("output_audio", output),
        output_image=known.get("output_image", output),
        output_video=known.get("output_video", output),
        input_bounds=(none, listed, to_5m, to_30m, to_1h, max(to_1h, write_12h)),
        output_bound=max(output, reasoning),
    )


def _with_rising_bounds(steps: Iterable[Step]) -> tuple[Step, ...]:
    """A bound holds for every smaller call too, so it never falls from one step to the next."""
    risen: list[Step] = []
    for step in steps:
        before = risen[-1] if risen else step
        risen.append(
            attrs.evolve(
                step,
                input_bounds=tuple(map(max, step.input_bounds, before.input_bounds)),
                output_bound=max(step.output_bound, before.output_bound),
            )
        )
    return tuple(risen)
