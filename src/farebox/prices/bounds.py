"""How many input tokens a call can have, before it is sent.

Two answers.  The estimate errs upwards: three bytes a token for English, two for other prose and for code, one for anything
denser (`providers._reading.Sizes`).  The vocabularies measured have 3 to 5, 2 to 4 and 1 to 4 bytes there, and what they
make of forty kinds of text is in docs/explanation/bounds.md (benchmarks/bounds.py).  It is calibrated, not proven: a
model whose answers show more input than was estimated has its estimate raised, and the excess is debt that a report shows.

The proven bound is what `input_bound="bytes"` asks for: no published vocabulary has a token of less than a byte, so a
text has no more tokens than bytes, once what its server may make of it is counted too; for Claude, twice as many.

The bound rests on what nobody can prove from outside: that a provider's templates, tool prompts and picture formulas are
no longer than documented or measured.  What has no bound at all is named in `call.unbounded`.
"""

from __future__ import annotations

from typing import Final

from farebox._call import Call

#: Claude's vocabulary is not published.  As reconstructed from what its endpoint counts (https://pypi.org/project/ctok/, 1.3.0,
#: read 2026-11-22), it takes tokens for where words begin and end and for capitals: "1ZZ" again and again has five in three
#: bytes, the most that was found; and from Claude 4.7 on English has 2.4 to 3.2 bytes a token.
_MARKS_WORDS: Final = "claude"
#: Models whose factor is remembered; the names come from programs, which may make them up.
_MOST_MODELS: Final = 1_024
#: No report of a provider raises an estimate above this many times the calibrated one.
_MOST_PERCENT: Final = 800


def proven_tokens(call: Call) -> int:
    """Most input tokens that `call` can have, by proof, but for what `call.unbounded` names."""
    tokens = call.proven_input_tokens + (_repictured(call) if call.sent_model else 0)
    return tokens + call.text_bytes if _MARKS_WORDS in call.model else tokens


def _repictured(call: Call) -> int:
    """How many more tokens the pictures of `call` take for the model that is sent than for the one that was asked for."""
    pictures = call.pictures
    return 0 if pictures is None else pictures.tokens(call.sent_model) - pictures.tokens(call.request_model)


class InputEstimate:
    """The calibrated estimate, and what it has learnt of models for which it was too low.

    One miss at most doubles a factor, so a single odd answer does not close a budget; every answer that would have fitted
    into a tenth less takes a hundredth off again.

    Attributes:
        answers: Answers that said how many input tokens there were.
        misses: Those that said more than was estimated.
    """

    def __init__(self) -> None:
        self._percent: dict[tuple[str, str], int] = {}
        # Not exact when two threads count at once: a lock would cost more than the counts are worth.
        self.answers = 0
        self.misses = 0

    def tokens(self, call: Call) -> int:
        """Most input tokens that `call` is held for."""
        tokens = (call.text_bytes + call.dense_bytes + 1) // 2 + call.extra_input_tokens
        if call.english_bytes and _MARKS_WORDS not in (call.sent_model or call.request_model):
            tokens -= call.english_bytes // 6  # a third in place of a half
        if call.sent_model:
            tokens += _repictured(call)
        if self._percent:
            tokens = -(-tokens * self._percent.get((call.provider_name, call.model), 100) // 100)
        return tokens

    def learn(self, call: Call, estimated_tokens: int, actual_tokens: int) -> None:
        """Take note of how many input tokens `call` really had."""
        self.answers += 1
        if actual_tokens <= estimated_tokens and not self._percent:
            return
        key = (call.provider_name, call.model)
        before = self._percent.get(key, 100)
        if actual_tokens > estimated_tokens:
            self.misses += 1
            if estimated_tokens > 0 and (key in self._percent or len(self._percent) < _MOST_MODELS):
                wanted = before * actual_tokens * 11 // (estimated_tokens * 10) + 1
                self._percent[key] = min(wanted, 2 * before, _MOST_PERCENT)
        elif key in self._percent and actual_tokens * 10 < estimated_tokens * 9:
            self._percent[key] = max(100, before - 1)
