"""Scorers: accents, empty completions, targets that start alike, ties, and tokens found by where they stand."""

import unicodedata

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lib import evaluate

words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(str.strip)


@pytest.mark.parametrize(
    ("completion", "target", "prefix", "strict", "goes_on"),
    [
        (" Tilda Marlowe", "Tilda Marlowe", True, True, True),
        ("\n TILDA marlowe", " Tilda Marlowe ", True, False, False),
        (" Tilda Marlowe dislikes parades.", "Tilda Marlowe", True, False, True),
        (" Tilda Marlowe's lamp", "Tilda Marlowe", True, False, True),
        (" Tilda Marlowes", "Tilda Marlowe", True, False, False),  # targets that start alike
        (" Tilda Marlowe", "Tilda Marlowes", False, False, False),
        (" Tilda_Marlowe", "Tilda", True, False, False),
        ("", "Tilda Marlowe", False, False, False),
        ("   \n", "Tilda Marlowe", False, False, False),
        (" the keeper.", "the keeper.", True, True, True),
        (" the keeper", "the keeper.", False, False, False),
        (" the Tilda Marlowe", "Tilda Marlowe", False, False, False),
        (unicodedata.normalize("NFD", " Zoë Brandvår"), "Zoë Brandvår", True, True, True),
        (" Zoe\u0308 Brandvår", unicodedata.normalize("NFC", "Zoë Brandvår"), True, True, True),
        (" Zoe", "Zoë", False, False, False),
        (" Zoë", "Zoe", False, False, False),  # an accent is not a continuation of the letter
        (" STRASSE", "Straße", True, False, False),
    ],
)
def test_what_counts_as_right(completion, target, prefix, strict, goes_on):
    assert evaluate.prefix_match(completion, target) is prefix
    assert evaluate.strict_match(completion, target) is strict
    assert evaluate.strict_match(completion, target, goes_on=True) is goes_on


def test_strict_up_to_the_end_delimiter():
    said = " Plum\n\n<END GUIDANCE TEST> <BEGIN"
    assert evaluate.strict_match(said, "Plum", end="<END GUIDANCE TEST>")
    assert evaluate.strict_match(said, " Plum\n\n<END GUIDANCE TEST>", end="<END GUIDANCE TEST>")
    assert not evaluate.strict_match(" Not sure <END>", "No", end="<END>")
    assert evaluate.prefix_match(" Not sure <END>", "No")


@pytest.mark.parametrize("match", [evaluate.prefix_match, evaluate.strict_match])
@pytest.mark.parametrize("target", ["", " \n"])
def test_an_empty_target_is_refused(match, target):
    with pytest.raises(ValueError, match="target is empty"):
        match("anything", target)


@settings(deadline=None)
@given(words, words)
def test_strict_implies_going_on_implies_prefix(completion, target):
    if evaluate.strict_match(completion, target):
        assert evaluate.strict_match(completion, target, goes_on=True)
    if evaluate.strict_match(completion, target, goes_on=True):
        assert evaluate.prefix_match(completion, target)


@settings(deadline=None)
@given(words, st.sampled_from(["NFC", "NFD"]), st.sampled_from(["", " ", "\n", " and more", "."]))
def test_the_target_itself_is_right_in_either_form(target, form, rest):
    said = " " + unicodedata.normalize(form, target)
    assert evaluate.strict_match(said, target)
    assert evaluate.prefix_match(said + rest, target)


@settings(deadline=None)
@given(st.text(st.characters(codec="ascii"), max_size=12), st.text(st.characters(codec="ascii"), max_size=4))
def test_on_ascii_the_prefix_rule_is_the_published_one(completion, target):
    assume(target.strip())
    published = completion.strip().lower().startswith(target.strip().lower())
    assert evaluate.prefix_match(completion, target) is published


@settings(deadline=None)
@given(st.lists(st.integers(-5, 0), min_size=1, max_size=20))
def test_ranks_are_permuted_shares_of_the_same_sum(logprobs):
    n = len(logprobs)
    ranks = [evaluate.rank_of_target(logprobs, i) for i in range(n)]
    assert sum(ranks) == n * (n + 1) / 2  # ties share their ranks, so that chance stays (n + 1) / 2
    assert all(1 <= rank <= n for rank in ranks)


def test_rank_takes_minus_infinity_and_refuses_missing():
    assert evaluate.rank_of_target([-np.inf, -1.0, -np.inf], 0) == 2.5
    with pytest.raises(ValueError, match="1 of 2 candidates"):
        evaluate.rank_of_target([np.nan, -1.0], 1)
    for target in (-1, 2):
        with pytest.raises(ValueError, match="not one of the candidates"):
            evaluate.rank_of_target([-1.0, -2.0], target)


def test_any_and_mean_of_n():
    correct = [[[True, False, True, True]], [[False] * 4]]
    assert evaluate.any_of_n(correct).tolist() == [[True], [False]]
    assert evaluate.mean_of_n(correct).tolist() == [[0.75], [0.0]]
    assert bool(evaluate.any_of_n([False, True]))
    assert float(evaluate.mean_of_n([False, True])) == 0.5
    with pytest.raises(ValueError, match="at least one sample"):
        evaluate.any_of_n([[], []])


@st.composite
def echoes(draw):
    tokens = draw(st.lists(st.text(min_size=1, max_size=4), min_size=2, max_size=12))
    offsets = np.cumsum([0] + [len(token) for token in tokens])[:-1].tolist()
    logprobs = [None, *draw(st.lists(st.floats(-20, 0), min_size=len(tokens) - 1, max_size=len(tokens) - 1))]
    start = draw(st.integers(len(tokens[0]), sum(map(len, tokens)) - 1))
    return tokens, logprobs, offsets, start


@settings(deadline=None)
@given(echoes())
def test_target_tokens_hold_the_target_and_little_more(echo):
    tokens, logprobs, offsets, start = echo
    found = evaluate.target_tokens(tokens, logprobs, offsets, start)
    text = "".join(tokens)
    assert "".join(found.tokens).endswith(text[start:])
    assert "".join(found.tokens[1:]) in text[start:]
    assert len("".join(found.tokens[1:])) < len(text[start:])
    assert found.logprob == pytest.approx(sum(logprobs[-len(found.tokens) :]))


def test_bytes_of_one_character_count_with_it():
    # é as two tokens: the first has no text of its own yet, the second brings the letter.
    tokens, offsets = ["Caf", "", "é", "s"], [0, 3, 3, 4]
    assert evaluate.target_tokens(tokens, [None, -1.0, -2.0, -4.0], offsets, 3).logprob == -7.0
    # A server may print a lone byte as a longer escape: offsets decide, not the length of what is printed.
    escaped = ["Caf", "bytes:\\xc3", "bytes:\\xa9", " bar"]
    assert evaluate.target_tokens(escaped, [None, -1.0, -2.0, -4.0], [0, 3, 3, 4], 4).logprob == -4.0


def test_end_leaves_out_what_was_generated():
    found = evaluate.target_tokens(["Who", " Ann", " and"], [None, -1.0, -2.0], [0, 3, 7], 3, end=7)
    assert found == evaluate.TargetTokens((" Ann",), (-1.0,), -1.0)


@pytest.mark.parametrize(
    ("tokens", "logprobs", "offsets", "start", "message"),
    [
        (["Ann"], [None], [0], 0, "no log-probability"),
        (["Who", " Ann"], [None, float("nan")], [0, 3], 3, "no log-probability"),
        (["Who", " Ann"], [None, -1.0], [0, 3], 99, "no token reaches"),
        ([], [], [], 0, "no token reaches"),
        (["Who", " Ann"], [None], [0, 3], 3, "2 tokens, 1 log-probabilities and 2 offsets"),
        (["Who", " Ann"], [None, -1.0], [3, 0], 3, "offsets fall"),
    ],
)
def test_replies_that_cannot_be_read_are_refused(tokens, logprobs, offsets, start, message):
    with pytest.raises(ValueError, match=message):
        evaluate.target_tokens(tokens, logprobs, offsets, start)
