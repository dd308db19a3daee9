"""LangChain's models of any vendor under budgets, by a callback handler.

    from farebox.integrations.langchain import BudgetHandler

    model = ChatMistralAI(model="mistral-small-latest", max_tokens=500, callbacks=[BudgetHandler()])

A model that calls through an SDK which `instrument()` meters needs no handler, and one that is there does nothing.

LangChain tells a handler what is about to be sent and what came of it, and lets it change neither: a call is held at the
bound of what it says, and refused where that does not fit; it can't be capped or sent to another model.
(langchain-core 1.8.3, `callbacks/base.py`, `callbacks/manager.py`, `language_models/chat_models.py`; read 2026-11-29.)
"""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseLanguageModel
from langchain_core.messages import convert_to_openai_messages

from farebox import signals
from farebox._call import Call, Outcome, Usage
from farebox._instrument import metered_sdks
from farebox.errors import FareboxError, ScopeEnded
from farebox.providers import find_provider
from farebox.providers._reading import Sizes, whole_number

#: LangChain's `ls_provider` -> OpenTelemetry's `gen_ai.provider.name`; the others are called the same, or by nobody else.
_PROVIDERS: Final = {
    "amazon_bedrock": "aws.bedrock",
    "azure": "azure.ai.openai",
    "google_genai": "gcp.gemini",
    "google_vertexai": "gcp.vertex_ai",
    "mistral": "mistral_ai",
    "xai": "x_ai",
}
#: Where a model says how much it may answer, by vendor.
_CAPS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict", "max_new_tokens")
#: Errors of HTTP clients after which nothing can have reached the provider.
_NEVER_SENT: Final = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "InvalidURL"})
_MOST_PARENTS: Final = 10
_LONGEST_NAME: Final = 256

#: Of a model that is asked several things at once: what was begun before the first of them is sent.
_begun: ContextVar[tuple[Any, ...]] = ContextVar("_begun", default=())


class BudgetHandler(BaseCallbackHandler):  # type: ignore[misc, unused-ignore]
    """Holds each call of a model before it is sent, and settles it by the usage that comes with the answer.

    One object serves any number of models, threads and tasks, with `invoke` and `ainvoke` alike.  Put it on the model
    (`callbacks=[...]` where it is made) rather than on one call, so that none is forgotten.

    Args:
        leave: Names of model classes to leave alone, such as `["ChatLiteLLM"]`, because an SDK below them is metered.

    A call that does not fit is refused with `BudgetExceeded`, and not sent.  What is answered from a cache costs nothing,
    but is held first, and refused with the rest once the budget is spent: LangChain asks its cache afterwards.
    """

    raise_error = True  # otherwise LangChain would log a stop, and send
    run_inline = True  # in the task that makes the call, whose budgets they are

    def __init__(self, *, leave: Iterable[str] = ()) -> None:
        super().__init__()
        signals.instrumented.send("langchain")  # there is somebody now who sees calls
        self._leave = frozenset(leave)
        self._open: dict[Any, Call] = {}

    # ── before ───────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def on_chat_model_start(self) -> Any:
        return self._start_async if _is_asked_by_coroutine() else self._start

    @property
    def on_llm_start(self) -> Any:
        return self._start_async if _is_asked_by_coroutine() else self._start

    def _start(self, serialized: Any, asked: Any, *, run_id: Any, **told: Any) -> None:
        call = self._read(serialized, asked, told)
        if call is None:
            return
        try:
            signals.pre_call.send(call.provider_name, call=call)
        except BaseException as error:
            self._stopped(call, error)
            raise
        self._sent(run_id, call, told)

    async def _start_async(self, serialized: Any, asked: Any, *, run_id: Any, **told: Any) -> None:
        call = self._read(serialized, asked, told)
        if call is None:
            return
        call.is_async = True
        try:
            await signals.pre_call.send_async(call.provider_name, call=call)
        except BaseException as error:
            self._stopped(call, error)
            raise
        self._sent(run_id, call, told)

    def _read(self, serialized: Any, asked: Any, told: Mapping[str, Any]) -> Call | None:
        """The call that is about to be made; None where it is somebody else's to count."""
        names = serialized.get("id") if isinstance(serialized, Mapping) else None
        path = tuple(map(str, names)) if isinstance(names, list) else ()
        name = path[-1] if path else ""
        if name in self._leave or is_metered(path):
            return None
        return read_call(name, asked, told.get("metadata") or {}, told.get("invocation_params") or {})

    def _sent(self, run_id: Any, call: Call, told: Mapping[str, Any]) -> None:
        call.is_sent, call.attempts = True, 1
        self._open[run_id] = call
        if told.get("batch_size", 1) > 1:
            begun = (*_begun.get(), run_id)
            _begun.set(begun if len(begun) < told["batch_size"] else ())

    def _stopped(self, call: Call, error: BaseException) -> None:
        """Nothing will be sent: not this, nor what was begun along with it."""
        if call.outcome == "open":
            if isinstance(error, GeneratorExit):
                call.outcome = "vetoed"
                signals.settle_late(call)
            else:
                _end(call, "vetoed", error)
        for run_id in _begun.get():
            other = self._open.pop(run_id, None)
            if other is not None:
                _end(other, "vetoed", error)
        _begun.set(())

    # ── after ────────────────────────────────────────────────────────────────────────────────────────────────────

    def on_llm_new_token(self, token: Any, *, run_id: Any, **told: Any) -> None:
        call = self._open.get(run_id)
        if call is not None and call.first_chunk_at_seconds is None:
            call.is_stream, call.first_chunk_at_seconds = True, time.time()

    def on_llm_end(self, response: Any, *, run_id: Any, **told: Any) -> None:
        call = self._open.pop(run_id, None)
        if call is None:
            return
        if _is_from_cache(response):
            _end(call, "vetoed")
            return
        try:
            read_answer(call, response)
        except Exception as error:  # an answer is untrusted: its caller gets it, and it is charged at its bound
            call.usage, call.doubt = None, type(error).__name__
        _end(call, "completed")
        if call.raises is not None:
            call.raises.__dict__["response"] = response
            raise call.raises

    def on_llm_error(self, error: BaseException, *, run_id: Any, response: Any = None, **told: Any) -> None:
        call = self._open.pop(run_id, None)
        if call is None:
            return
        if isinstance(error, GeneratorExit):  # its reader has left, maybe in a finalizer
            sizes = Sizes({})
            for generation in _generations(response):
                sizes.add_text(str(getattr(generation, "text", "")))
            call.received_tokens, call.was_closed = sizes.received_tokens(), True
            _end(call, "closed", error)
        elif _is_unbilled(error):
            _end(call, "failed", error)
        else:
            _end(call, "unknown", error)


def _is_asked_by_coroutine() -> bool:
    """Whether who looks up a callback can await it.

    LangChain's own sync manager runs a coroutine aside and swallows what it raises; its async one calls a plain function on
    the event loop, where it could not wait.  So a callback is what its caller is.
    """
    return bool(sys._getframe(2).f_code.co_flags & inspect.CO_COROUTINE)


def _end(call: Call, outcome: Outcome, error: BaseException | None = None) -> None:
    call.outcome = outcome
    if error is not None:
        call.error_class = type(error).__name__
    signals.post_call.send(call.provider_name, call=call)


# ── reading what LangChain tells ─────────────────────────────────────────────────────────────────────────────────────


def read_call(name: str, asked: Any, metadata: Mapping[str, Any], params: Mapping[str, Any]) -> Call:
    """The call that a model is about to make: who serves it, its declared cap, and how much it reads at most."""
    model = (
        metadata.get("ls_model_name") or params.get("model") or params.get("model_name") or params.get("model_id") or ""
    )
    kind = str(metadata.get("ls_provider") or "")
    body: dict[str, Any] = {"model": str(model)[:_LONGEST_NAME] or "unknown", "messages": _messages(asked)}
    for word in ("tools", "functions", "response_format", "n"):
        if params.get(word):
            body[word] = params[word]
    given = [metadata.get("ls_max_tokens"), *(params.get(word) for word in _CAPS)]
    caps = [cap for cap in map(whole_number, given) if cap]
    if caps:
        body["max_tokens"] = max(caps)
    format_of = find_provider("openai")
    call = format_of.read_request(format_of.chat_path, body, "")
    if call is None:  # malformed in one place or another: what it reads is text all the same
        plain = {**body, "messages": [{"role": "user", "content": str(body["messages"])}], "n": 1}
        call = format_of.read_request(format_of.chat_path, plain, "")
        assert call is not None
    call.provider_name = _PROVIDERS.get(kind, kind)
    call.endpoint = f"langchain {name}".strip()[:_LONGEST_NAME]
    call.is_fixed, call.accepts_cap, call.is_plain = True, False, False
    return call


def _messages(asked: Any) -> list[Any]:
    """Messages or prompts in OpenAI's form, whose sizes farebox knows how to bound."""
    asked = list(asked)
    if asked and isinstance(asked[0], str):
        return [{"role": "user", "content": prompt} for prompt in asked]
    messages = [message for one in asked for message in one]
    try:
        converted: list[Any] = convert_to_openai_messages(messages)
    except Exception:  # a part that OpenAI has no form for
        return [{"role": "user", "content": f"{message.type} {message.content}"} for message in messages]
    return converted


def read_answer(call: Call, response: Any) -> None:
    """Write the usage, the model served and the answer's id to `call`, as far as the answer says them."""
    for generation in _generations(response):
        message = getattr(generation, "message", None)
        told = getattr(message, "response_metadata", None) or {}
        call.response_model = str(told.get("model_name") or told.get("model") or "")[:_LONGEST_NAME]
        call.response_id = str(told.get("id") or getattr(message, "id", "") or "")[:_LONGEST_NAME]
        usage = getattr(message, "usage_metadata", None)
        if usage:  # of all choices together, also where each has it
            call.usage = _usage(usage)
            return
    tokens = (getattr(response, "llm_output", None) or {}).get("token_usage") or {}
    if "prompt_tokens" in tokens:
        call.usage = _usage(
            {"input_tokens": tokens["prompt_tokens"], "output_tokens": tokens.get("completion_tokens") or 0}
        )
    else:
        call.doubt = "no usage"


def _usage(told: Mapping[str, Any]) -> Usage:
    """LangChain's `UsageMetadata` in disjoint buckets.

    Raises:
        ValueError: a count that is none, or parts that are more than the whole.

    Source: https://reference.langchain.com/python/langchain_core/messages (`UsageMetadata`, read 2026-11-29): the details
    are parts of the totals, and need not add up to them.
    """
    read, made = told.get("input_token_details") or {}, told.get("output_token_details") or {}
    five_minutes = _count(read.get("ephemeral_5m_input_tokens"))
    one_hour = _count(read.get("ephemeral_1h_input_tokens"))
    written = max(_count(read.get("cache_creation")), five_minutes + one_hour)
    usage = Usage(
        cache_read_tokens=_count(read.get("cache_read")),
        cache_write_5m_tokens=written - one_hour,
        cache_write_1h_tokens=one_hour,
        input_audio_tokens=_count(read.get("audio")),
        reasoning_tokens=_count(made.get("reasoning")),
        output_audio_tokens=_count(made.get("audio")),
    )
    rest_in = _count(told["input_tokens"]) - usage.input_tokens
    rest_out = _count(told["output_tokens"]) - usage.output_tokens
    if rest_in < 0 or rest_out < 0:
        raise ValueError("parts are more than the whole")
    return usage._replace(uncached_input_tokens=rest_in, visible_output_tokens=rest_out)


def _count(value: Any) -> int:
    count = whole_number(value) if value is not None else 0
    if count is None or count < 0:
        raise ValueError("no count")
    return count


def _generations(response: Any) -> Iterator[Any]:
    for choices in getattr(response, "generations", None) or ():
        yield from choices


def _is_from_cache(response: Any) -> bool:
    """LangChain puts a cost of zero on what its cache answers, and on nothing else."""
    messages = [getattr(generation, "message", None) for generation in _generations(response)]
    usages = [getattr(message, "usage_metadata", None) or {} for message in messages]
    return bool(usages) and all(usage.get("total_cost") == 0 for usage in usages)


def _is_unbilled(error: BaseException) -> bool:
    """Whether a call that ended so can't have been billed: answered with an error status, or never sent."""
    parent: BaseException | None = error
    for _ in range(_MOST_PARENTS):
        if parent is None:
            return False
        if isinstance(parent, (FareboxError, ScopeEnded)):
            return True
        if any(cls.__name__ in _NEVER_SENT for cls in type(parent).__mro__) or _status(parent) >= 400:
            return True
        parent = parent.__cause__
    return False


def _status(error: BaseException) -> int:
    """The HTTP status that an error of some vendor's client stands for; 0 where it says none."""
    answer = getattr(error, "response", None)
    boto = answer.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(answer, Mapping) else None
    for given in (
        getattr(error, "status_code", None),
        getattr(answer, "status_code", None),
        boto,
        getattr(error, "code", None),
    ):
        if type(given) is int and given < 600:
            return given
    return 0


# ── which models an SDK below them is metered for ────────────────────────────────────────────────────────────────────

_sdks_of: dict[tuple[str, ...], frozenset[str]] = {}
_MOST_CLASSES: Final = 256


def is_metered(path: tuple[str, ...]) -> bool:
    """Whether the class of this name, as LangChain writes it, calls through an SDK that `instrument()` meters."""
    metered = metered_sdks()
    if not metered or not path:
        return False
    sdks = _sdks_of.get(path)
    if sdks is None:
        sdks = frozenset(name for cls in _classes(path) for name in _imported_by(cls))
        if sdks and len(_sdks_of) < _MOST_CLASSES:
            _sdks_of[path] = sdks
    return not sdks.isdisjoint(metered)


def _classes(path: tuple[str, ...]) -> Iterator[type]:
    """The model class and what it is made of."""
    waiting: list[type] = [BaseLanguageModel]
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        if cls.__name__ == path[-1] and tuple(cls.lc_id()) == path:  # type: ignore[attr-defined, unused-ignore]
            yield from cls.__mro__


def _imported_by(cls: type) -> Iterator[str]:
    """The packages that the module of a class has imported, whole or in part: `google.genai` for a class out of it."""
    for value in tuple(vars(sys.modules.get(cls.__module__, object)).values()):
        name = getattr(value, "__name__" if inspect.ismodule(value) else "__module__", None)
        if isinstance(name, str):
            parts = name.split(".")
            yield parts[0]
            yield ".".join(parts[:2])
