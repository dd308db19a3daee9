"""What such calls need: a histogram that never says too little, and the cap that follows from it, worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import farebox
from farebox import _config
from farebox._call import Usage
from farebox._needs import PRIOR_TOKENS, Needs, Site
from farebox.errors import CutAnswerWarning
from tests.strategies import MODEL, admit, finish, new_call, price_the_model


def site_of(*answers: int, cut: bool = False) -> Site:
    site = Site()
    for answer in answers:
        site.learn(answer, cut)
    return site


# The histogram.


@given(st.lists(st.integers(0, 300_000), min_size=1, max_size=99))
def test_below_a_hundred_samples_p99_is_the_most_seen_and_at_most_an_eighth_above(answers: list[int]) -> None:
    assert max(answers) <= site_of(*answers).p99() <= max(answers) * 1.125


@given(
    st.lists(st.integers(0, 300_000), min_size=100, max_size=300)
    | st.lists(st.integers(0, 20), min_size=100, max_size=300)
)
def test_p99_is_never_below_the_exact_one_and_at_most_an_eighth_above(answers: list[int]) -> None:
    exact = sorted(answers)[math.ceil(len(answers) * 0.99) - 1]
    assert exact <= site_of(*answers).p99() <= exact * 1.125


@given(st.lists(st.integers(0, 300_000), min_size=1, max_size=60), st.integers(1, 60))
def test_it_makes_no_difference_when_samples_are_folded_in(answers: list[int], every: int) -> None:
    asked_often = Site()
    for number, answer in enumerate(answers):
        asked_often.learn(answer, False)
        if number % every == 0:
            asked_often.p99()
    assert asked_often.p99() == site_of(*answers).p99()


@pytest.mark.parametrize("tokens", range(16))
def test_short_answers_are_known_exactly(tokens: int) -> None:
    assert site_of(tokens).p99() == tokens


def test_a_site_that_knows_nothing_says_zero() -> None:
    assert Site().p99() == 0


@given(st.integers(1, 100_000))
def test_a_cut_answer_counts_as_twice_its_length(tokens: int) -> None:
    assert site_of(tokens, cut=True).p99() == site_of(2 * tokens).p99()


def test_one_outlier_in_a_hundred_is_left_out_and_two_are_not() -> None:
    assert site_of(*[10] * 99, 50_000).p99() == 10
    assert site_of(*[10] * 98, 50_000, 50_000).p99() >= 50_000


def test_what_was_once_needed_is_forgotten_when_answers_get_shorter() -> None:
    site = site_of(*[8_000] * 1_000)
    assert site.p99() >= 8_000
    for _ in range(20):
        for _ in range(1_500):
            site.learn(12, False)
        site.p99()
    assert site.p99() == 12
    assert site.known == 31_000


def test_a_histogram_stays_small() -> None:
    site = Site()
    for answer in range(0, 400_000, 7):
        site.learn(answer, False)
        site.p99()  # as every call does that asks for a cap
    assert sum(site._buckets.values()) <= 2_048
    assert len(site._buckets) <= 8 * 16


# The policy, by hand.


def begin(site: Site, number: int) -> None:
    """As a call does: in flight first, then it asks."""
    site.open_calls[number] = None
    site.caps(2_048, 0)


def end(site: Site, number: int, answer: int = 9) -> None:
    site.open_calls.pop(number)
    site.learn(answer, False)


def test_a_cold_site_wants_the_prior_and_waits_for_no_less() -> None:
    assert Site().caps(2_048, 0) == (2_048, 2_048, 12)
    assert Site().caps(32_768, 0) == (32_768, 32_768, 12)


def test_a_cold_site_wants_twice_what_it_has_seen_where_that_is_more() -> None:
    assert site_of(3_000).caps(2_048, 0) == (6_142, 6_142, 12)  # 3,000 lies in the bucket that ends at 3,071
    assert site_of(30_000).caps(32_768, 0) == (61_438, 61_438, 12)


def test_a_cold_site_wants_a_20th_of_what_is_unspent_where_that_is_more() -> None:
    assert Site().caps(2_048, 200_000) == (10_000, 10_000, 12)
    assert Site().caps(2_048, 20 * 2_048 + 19) == (2_048, 2_048, 12)


@pytest.mark.parametrize(
    ("answers", "want"),
    [
        ([1_000], 16 * 1_023),  # 1,000 lies in the bucket that ends at 1,023
        ([1_000, 10], 8 * 1_023),
        ([1_000, 10, 10], 5_456),
        ([1_000, *[10] * 7], 2_048),
        ([10], 2_048),
        ([4_000], 32_768),
    ],
)
def test_each_short_answer_of_a_reasoning_model_lowers_what_is_expected_of_it(answers: list[int], want: int) -> None:
    assert site_of(*answers).caps(32_768, 0) == (want, want, 12)


@pytest.mark.parametrize(("known", "want"), [(12, 24), (24, 18), (120, 13), (1_200, 12)])
def test_a_warm_site_wants_p99_and_a_shrinking_margin_and_at_least_four_fifths_of_p99(known: int, want: int) -> None:
    site = site_of(*[12] * known)
    assert site.caps(2_048, 10**9) == (want, 9, 16)


def test_a_site_is_cold_until_twelve_answers_are_known() -> None:
    assert site_of(*[9] * 11).is_cold()
    assert not site_of(*[9] * 12).is_cold()


def test_a_site_is_cold_until_the_slowest_of_its_first_twelve_calls_has_ended() -> None:
    site = Site()
    for number in range(1, 21):
        begin(site, number)
    for number in (*range(1, 12), *range(13, 21)):
        end(site, number)
    assert site.is_cold()  # nineteen are known; the twelfth is still in flight
    end(site, 12)
    assert not site.is_cold()


def test_calls_after_the_first_twelve_may_take_their_time() -> None:
    site = Site()
    for number in range(1, 21):
        begin(site, number)
    for number in range(1, 13):
        end(site, number)
    assert not site.is_cold()


def test_a_call_that_never_ends_does_not_keep_a_site_cold() -> None:
    site = Site()
    begin(site, 1)
    for number in range(2, 101):
        begin(site, number)
        end(site, number)
    assert site.is_cold()  # 99 are known
    begin(site, 101)
    end(site, 101)
    assert not site.is_cold()


def test_a_hundred_known_say_little_of_two_hundred_in_flight() -> None:
    site = Site()
    for number in range(1, 301):
        begin(site, number)
    for number in range(101, 250):
        end(site, number)
    assert site.is_cold()  # 149 are known and 151 in flight, the first twelve among them
    end(site, 250)
    assert not site.is_cold()


def test_a_site_that_was_warm_once_stays_so() -> None:
    site = site_of(*[9] * 12)
    assert not site.is_cold()
    for number in range(1, 1_000):
        site.open_calls[number] = None
    assert not site.is_cold()


def test_calls_that_ended_without_an_answer_are_no_knowledge() -> None:
    site = Site()
    for number in range(1, 50):
        begin(site, number)
        site.open_calls.pop(number)
    assert site.is_cold()
    assert site.caps(2_048, 0) == (2_048, 2_048, 12)


def test_a_warm_site_of_empty_answers_still_wants_a_token() -> None:
    assert site_of(*[0] * 12).caps(2_048, 0) == (1, 1, 16)


# The sites.


def test_each_model_in_each_scope_has_its_own_site() -> None:
    needs = Needs()
    site = needs.site("openai", "gpt-5", "nightly")
    assert needs.site("openai", "gpt-5", "nightly") is site
    assert needs.site("openai", "gpt-5", "") is not site
    assert needs.site("openai", "gpt-5-mini", "nightly") is not site
    assert needs.site("azure", "gpt-5", "nightly") is not site


def test_sites_are_bounded_and_the_oldest_goes_first() -> None:
    needs = Needs()
    sites = [needs.site("openai", f"model-{number}", "") for number in range(1_030)]
    assert len(needs._sites) == 1_024
    assert needs.site("openai", "model-1029", "") is sites[1_029]
    assert needs.site("openai", "model-6", "") is sites[6]
    assert needs.site("openai", "model-5", "") is not sites[5]


# The policy at work.


def test_a_call_without_a_cap_is_granted_the_prior_and_what_it_used_is_learnt() -> None:
    price_the_model()
    farebox.set_price("gpt-4o-mini", input_per_million=1, output_per_million=2)  # a model that does not reason
    with farebox.budget("b", usd="0.04") as b:  # buys 20,000 output tokens; a 12th is below the prior
        call = admit(new_call("gpt-4o-mini", cap=None))
        assert call.sent_cap == PRIOR_TOKENS
        assert str(b.reserved_usd) == "0.004138"  # 2,048 and 1 percent of it (21) at 2,000 nanodollars
        finish(call, usage=Usage(visible_output_tokens=12))
        site = _config.state().needs.site("openai", "gpt-4o-mini", "b")
        assert (site.p99(), site.known, site.open_calls) == (12, 1, {})


def test_a_reasoning_model_starts_with_the_larger_prior() -> None:
    price_the_model()
    with farebox.budget("b", usd="0.5"):  # an unknown model is taken to reason
        assert admit(new_call(cap=None)).sent_cap == 32_768


def test_a_warm_call_is_granted_p99_and_its_margin_or_a_sixteenth_of_what_is_left() -> None:
    price_the_model()
    farebox.set_price("gpt-4o-mini", input_per_million=0, output_per_million=2)
    with farebox.budget("b", usd="2", tokens=4_000) as b:
        for _ in range(12):
            call = admit(new_call("gpt-4o-mini", cap=None))
            finish(call, usage=Usage(visible_output_tokens=100))
        assert b.spent_tokens == 1_200
        # p99 is 103, the end of the bucket of 100; left are 2,800 tokens, of which a 16th pays for a cap of 159.
        assert admit(new_call("gpt-4o-mini", cap=None)).sent_cap == 206
    with farebox.budget("c", tokens=16_000):
        site = _config.state().needs.site("openai", "gpt-4o-mini", "c")
        for _ in range(12):
            site.learn(10, False)
        # A 16th of 16,000 is 1,000; less 16 for what a provider may overrun.
        assert admit(new_call("gpt-4o-mini", cap=None)).sent_cap == 984


def test_a_declared_cap_is_sent_as_it_is() -> None:
    price_the_model()
    with farebox.budget("b", usd=1):
        assert admit(new_call(cap=100)).sent_cap is None


@pytest.mark.parametrize("limits", [{"calls": 5}, {"usd": 1, "on_exceed": "warn"}])
def test_without_a_limit_in_usd_or_tokens_that_stops_the_request_is_left_alone(limits: dict[str, object]) -> None:
    price_the_model()
    with farebox.budget("b", **limits):  # type: ignore[arg-type]
        assert admit(new_call(cap=None)).sent_cap is None


def test_a_cut_answer_is_published_and_logged_where_warnings_are_errors(caplog: pytest.LogCaptureFixture) -> None:
    price_the_model()
    with farebox.budget("b", usd="0.001") as b:
        for _ in range(2):
            call = admit(new_call(cap=None))
            call.is_cut = True
            finish(call, usage=Usage(visible_output_tokens=10))
        assert [event.did for event in b.decisions] == ["cut", "cut"]
    assert len([record for record in caplog.records if "ended at" in record.getMessage()]) == 1


def test_a_cut_answer_is_warned_about_once_a_frame() -> None:
    price_the_model()
    with farebox.budget("b", usd="0.001"):
        call = admit(new_call(cap=None))
        call.is_cut = True
        with pytest.warns(CutAnswerWarning, match=f"an answer of {MODEL} ended at"):
            finish(call, usage=Usage(visible_output_tokens=10))


def test_a_warning_points_at_the_first_line_that_is_not_fareboxs() -> None:
    price_the_model()
    with farebox.budget("b", usd="0.001"):
        call = admit(new_call(cap=None))
        call.is_cut = True
        with pytest.warns(CutAnswerWarning) as warned:
            finish(call, usage=Usage(visible_output_tokens=10))
    assert warned[0].filename.endswith("strategies.py")  # whose `finish` sends `post_call`
