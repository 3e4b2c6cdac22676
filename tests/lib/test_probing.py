"""Scorers: accents, empty completions, targets that start alike, ties, and checked echoes of a target."""

import unicodedata

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from lib import probing, scoring
from lib.api import Answer
from lib.probing import NoLogprob, target_logprob

words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(str.strip)


@pytest.mark.parametrize(
    ("completion", "target", "prefix", "strict", "continued"),
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
def test_what_counts_as_right(completion, target, prefix, strict, continued):
    assert scoring.prefix_match(completion, target) is prefix
    assert scoring.strict_match(completion, target) is strict
    assert scoring.strict_match(completion, target, continued=True) is continued


@pytest.mark.parametrize("match", [scoring.prefix_match, scoring.strict_match])
@pytest.mark.parametrize("target", ["", " \n"])
def test_an_empty_target_is_refused(match, target):
    with pytest.raises(ValueError, match="target is empty"):
        match("anything", target)


@settings(deadline=None)
@given(words, words)
def test_strict_implies_going_on_implies_prefix(completion, target):
    if scoring.strict_match(completion, target):
        assert scoring.strict_match(completion, target, continued=True)
    if scoring.strict_match(completion, target, continued=True):
        assert scoring.prefix_match(completion, target)


@settings(deadline=None)
@given(words, st.sampled_from(["NFC", "NFD"]), st.sampled_from(["", " ", "\n", " and more", "."]))
def test_the_target_itself_is_right_in_either_form(target, form, rest):
    completion = " " + unicodedata.normalize(form, target)
    assert scoring.strict_match(completion, target)
    assert scoring.prefix_match(completion + rest, target)


@settings(deadline=None)
@given(st.text(st.characters(codec="ascii"), max_size=12), st.text(st.characters(codec="ascii"), max_size=4))
def test_on_ascii_the_prefix_rule_is_the_published_one(completion, target):
    assume(target.strip())
    published = completion.strip().lower().startswith(target.strip().lower())
    assert scoring.prefix_match(completion, target) is published


@settings(deadline=None)
@given(st.lists(st.floats(-5, 0).map(round) | st.just(-np.inf), min_size=1, max_size=20))
def test_ranks_are_those_of_the_log_probabilities_and_ties_share_them(logprobs):
    n = len(logprobs)
    names = [f" {k}" for k in range(n)]
    rows = pd.DataFrame({"model": "m", "prompt": "p", "target": names})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probing, "target_logprobs", lambda *_, **__: np.array(logprobs * n, dtype=float))
        ranks = probing.target_ranks(None, rows, [names] * n, journal=None)
        more = [sum(other > own for other in logprobs) for own in logprobs]
        assert ranks.tolist() == [n + (logprobs.count(own) + 1) / 2 for n, own in zip(more, logprobs, strict=True)]
        patch.setattr(probing, "target_logprobs", lambda *_, **__: np.array([*logprobs[:-1], np.nan] * n, dtype=float))
        assert np.isnan(probing.target_ranks(None, rows, [names] * n, journal=None)).all()


def echo(tokens, logprobs, offsets, text=None):
    return Answer("".join(tokens) if text is None else text, "length", tuple(tokens), tuple(logprobs), tuple(offsets))


@st.composite
def echoes(draw):
    tokens = draw(st.lists(st.text(min_size=1, max_size=4), min_size=2, max_size=12))
    offsets = np.cumsum([0] + [len(token) for token in tokens])[:-1].tolist()
    logprobs = [None, *draw(st.lists(st.floats(-20, 0), min_size=len(tokens) - 1, max_size=len(tokens) - 1))]
    start = draw(st.integers(len(tokens[0]), sum(map(len, tokens)) - 1))
    return tokens, logprobs, offsets, start


@settings(deadline=None)
@given(echoes())
@example((["0", "▁"], [None, -1.0], [0, 1], 1))
def test_the_sum_is_that_of_every_token_with_a_part_of_the_target(given_echo):
    tokens, logprobs, offsets, start = given_echo
    text = "".join(tokens)
    n_before = sum(offset + len(token) <= start for token, offset in zip(tokens, offsets, strict=True))
    found = target_logprob(echo(tokens, logprobs, offsets), text[:start], text[start:])
    assert found == pytest.approx(sum(logprobs[n_before:]))


@settings(deadline=None)
@given(echoes())
def test_offsets_in_bytes_are_noticed_wherever_they_differ(given_echo):
    tokens, logprobs, offsets, start = given_echo
    in_bytes = [len("".join(tokens[:k]).encode()) for k in range(len(tokens))]
    assume(in_bytes != offsets)
    text = "".join(tokens)
    with pytest.raises(NoLogprob, match="not the text at its offset"):
        target_logprob(echo(tokens, logprobs, in_bytes), text[:start], text[start:])


def test_a_token_across_the_boundary_counts_whole():
    answer = echo(["A", " to", "rn ", "leaf"], [None, -1.0, -2.0, -0.5], [0, 1, 4, 7])
    assert target_logprob(answer, "A torn ", "leaf") == -0.5
    assert target_logprob(answer, "A tor", "n leaf") == -2.5


def test_bytes_of_one_character_count_with_it():
    # é as two tokens that are written as escapes: the first has no text of its own, the second brings the letter.
    tokens = ["Caf", "bytes:\\xc3", "bytes:\\xa9", " bar"]
    answer = echo(tokens, [None, -1.0, -2.0, -4.0], [0, 3, 3, 4], "Café bar")
    assert target_logprob(answer, "Café", " bar") == -4.0
    assert target_logprob(answer, "Caf", "é bar") == -7.0


@pytest.mark.parametrize(
    ("tokens", "offsets"),
    [
        (["<s>", "Who", " Ann"], [0, 0, 3]),  # begin of text without text
        (["<s>", " Who", " Ann"], [0, 0, 3]),  # and the space that SentencePiece puts in front
        (["", "▁Who", "▁Ann"], [0, 0, 3]),
    ],
)
def test_a_begin_of_text_token_and_the_space_after_it_are_no_text(tokens, offsets):
    answer = echo(tokens, [None, -1.0, -2.0], offsets, "Who Ann")
    assert target_logprob(answer, "Who", " Ann") == -2.0
    assert target_logprob(answer, "", "Who Ann") == -3.0


@pytest.mark.parametrize(
    ("tokens", "logprobs", "offsets", "prompt", "target", "message"),
    [
        (["Ann"], [None], [0], "", "Ann", "no log-probability"),
        (["Who", " Ann"], [None, float("nan")], [0, 3], "Who", " Ann", "no log-probability"),
        (["Who"], [None], [0], "Who", "", "no log-probability"),
        (["Who", " Ann"], [None, -1.0], [0, 3], "Who", " Annie", "did not echo the text"),
        ([], [], [], "Who", " Ann", "did not echo the text"),
        (["Who", " Ann"], [None], [0, 3], "Who", " Ann", "2 tokens, 1 log-probabilities and 2 offsets"),
        (["Who", " Ann"], [None, -1.0], [3, 0], "Who", " Ann", "first token is at offset 3"),
        (["Who", " Ann"], [None, -1.0], [0, 0], "Who", " Ann", "not the text at its offset"),
    ],
)
def test_replies_that_cannot_be_read_are_refused(tokens, logprobs, offsets, prompt, target, message):
    with pytest.raises(NoLogprob, match=message):
        target_logprob(echo(tokens, logprobs, offsets), prompt, target)
