"""LangGraph: branches that run at once, nodes that are tried again, and tools whose errors are told to the model."""

from __future__ import annotations

import asyncio
import operator
from decimal import Decimal
from typing import Annotated, Any, TypedDict

import pytest

import farebox
from farebox import BudgetExceeded, budget, track
from farebox.testing import FakeProvider
from tests.frameworks.oracle import MODEL, books_equal_bill, need

need("langgraph", "langchain_openai")

from langchain_core.tools import tool  # noqa: E402
from langchain_openai import ChatOpenAI  # noqa: E402
from langgraph.graph import END, START, MessagesState, StateGraph  # noqa: E402
from langgraph.prebuilt import ToolNode  # noqa: E402
from langgraph.types import RetryPolicy, Send  # noqa: E402

BRANCHES = 12


class Answers(TypedDict):
    questions: list[str]
    answers: Annotated[list[str], operator.add]


def chat(**options: Any) -> ChatOpenAI:
    return ChatOpenAI(model=MODEL, max_tokens=400, **options)


def fan_out(**options: Any) -> Any:
    """A graph that asks all questions at once, in threads or tasks of LangGraph's own."""
    model = chat()

    def ask(state: dict[str, str]) -> dict[str, list[str]]:
        return {"answers": [str(model.invoke(state["question"]).text)]}

    async def ask_async(state: dict[str, str]) -> dict[str, list[str]]:
        return {"answers": [str((await model.ainvoke(state["question"])).text)]}

    from langchain_core.runnables import RunnableLambda

    graph = StateGraph(Answers)
    graph.add_node("ask", RunnableLambda(ask, ask_async), **options)
    graph.add_conditional_edges(
        START, lambda state: [Send("ask", {"question": question}) for question in state["questions"]], ["ask"]
    )
    graph.add_edge("ask", END)
    return graph.compile()


QUESTIONS = {"questions": [f"Why {number}?" for number in range(BRANCHES)], "answers": []}


async def streamed(graph: Any, state: Any) -> dict[str, list[str]]:
    return merged([part async for part in graph.astream(state)])


def merged(parts: list[dict[str, Any]]) -> dict[str, list[str]]:
    """What a graph has streamed of its branches, as they ended."""
    return {"answers": [answer for part in parts for answer in part["ask"]["answers"]]}


WAYS = {
    "sync": lambda graph, state: graph.invoke(state),
    "async": lambda graph, state: asyncio.run(graph.ainvoke(state)),
    "stream": lambda graph, state: merged(list(graph.stream(state))),
    "async stream": lambda graph, state: asyncio.run(streamed(graph, state)),
}


@pytest.mark.surface("langgraph fan-out", kind="{way}", proves=["exact", "unbroken"])
@pytest.mark.parametrize("way", WAYS)
def test_branches_that_run_at_once_are_each_counted_once(provider: FakeProvider, way: str) -> None:
    provider.answer(text="Because.")
    with track(feature="graph"), budget(usd=0.5):
        assert WAYS[way](fan_out(), QUESTIONS)["answers"] == ["Because."] * BRANCHES
    books_equal_bill(provider, BRANCHES, feature="graph")


@pytest.mark.surface("langgraph fan-out", kind="{way}", proves="refused")
@pytest.mark.parametrize("way", WAYS)
def test_branches_share_one_budget_and_the_stop_reaches_the_caller(provider: FakeProvider, way: str) -> None:
    """Six answers of 400 tokens at 1.60 USD per million are 0.00384 USD; LangGraph takes back what runs when one is refused."""
    provider.answer(output_tokens=400)
    with budget("graph", usd="0.004") as graph:
        with pytest.raises(BudgetExceeded):
            WAYS[way](fan_out(), QUESTIONS)
        provider.wait_until_idle()
    assert provider.bill.usd <= graph.spent_usd <= Decimal("0.004")
    assert 0 < provider.bill.calls <= 6


def test_branches_that_fit_one_after_the_other_wait_for_each_other(provider: FakeProvider) -> None:
    """What is held for calls in flight is more than they cost: nobody is refused for want of what comes free."""
    provider.answer(text="Because.")
    with budget(usd="0.004") as graph:  # twelve answers of 2 tokens, and the bounds of six calls of 400
        assert len(fan_out().invoke(QUESTIONS)["answers"]) == BRANCHES
    assert graph.debt_usd == 0
    books_equal_bill(provider, BRANCHES)


def test_a_node_that_is_tried_again_sends_nothing_more(provider: FakeProvider, tight: Any) -> None:
    graph = fan_out(retry_policy=RetryPolicy(max_attempts=3, initial_interval=0.001, jitter=False, retry_on=Exception))
    with pytest.raises(BudgetExceeded):
        graph.invoke({"questions": ["Why?"], "answers": []})
    assert not provider.requests
    assert farebox.report().total.refused_calls == 3


def agent(**handling: Any) -> Any:
    """A model and a tool in a loop; the tool asks a model, too."""

    @tool
    def ask_another(query: str) -> str:
        """Ask another model."""
        return str(chat().invoke(query).text)

    model = ChatOpenAI(model="gpt-4.1", max_tokens=100).bind_tools([ask_another])
    graph = StateGraph(MessagesState)
    graph.add_node("model", lambda state: {"messages": [model.invoke(state["messages"])]})
    graph.add_node("tools", ToolNode([ask_another], **handling))
    graph.add_edge(START, "model")
    graph.add_edge("model", "tools")
    graph.add_edge("tools", "model")
    return graph.compile()


def test_a_tool_node_that_tells_every_error_to_the_model_swallows_a_stop_and_the_next_call_is_refused(
    provider: FakeProvider,
) -> None:
    provider.answer(function="ask_another", text='{"query": "sense"}', output_tokens=50, model="gpt-4.1")
    seen: list[Any] = []
    with budget(calls=4), pytest.raises(BudgetExceeded):  # model, tool, model, tool; the model is refused
        for state in agent(handle_tool_errors=True).stream(
            {"messages": [("user", "Find it.")]}, {"recursion_limit": 100}, stream_mode="values"
        ):
            seen = state["messages"]
    assert not [message for message in seen if "BudgetExceeded" in str(message.content)]
    books_equal_bill(provider, 4)

    with budget(calls=3), pytest.raises(BudgetExceeded):  # model, tool, model; the tool is refused, and so is the model
        for state in agent(handle_tool_errors=True).stream(
            {"messages": [("user", "Find it.")]}, {"recursion_limit": 100}, stream_mode="values"
        ):
            seen = state["messages"]
    assert "BudgetExceeded" in str(seen[-1].content)
    assert provider.bill.calls == 4 + 3


def test_a_tool_node_left_as_it_is_lets_the_stop_through(provider: FakeProvider) -> None:
    provider.answer(function="ask_another", text='{"query": "sense"}', output_tokens=50, model="gpt-4.1")
    with budget(calls=3), pytest.raises(BudgetExceeded):
        agent().invoke({"messages": [("user", "Find it.")]}, {"recursion_limit": 100})
    books_equal_bill(provider, 3)


def test_what_a_graph_streams_of_its_models_is_counted_once(provider: FakeProvider) -> None:
    provider.answer(text="Because it is so. ")
    model = chat()

    def ask(state: MessagesState) -> Any:
        return {"messages": [model.invoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node("ask", ask).add_edge(START, "ask").add_edge("ask", END).compile()
    asked = {"messages": [("user", "Why?")]}

    async def all_of_it() -> str:
        parts = graph.astream(asked, stream_mode="messages")
        return "".join([str(part.text) async for part, _ in parts])

    with track(feature="graph"), budget(usd=0.5):
        said = "".join(str(part.text) for part, _ in graph.stream(asked, stream_mode="messages"))
        assert said == asyncio.run(all_of_it()) == "Because it is so. "
    assert all(request.stream for request in provider.requests)
    books_equal_bill(provider, 2, feature="graph")
