"""Four kinds of tokenizers: the text that is echoed, counted and learned is the text that was sent."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from families import SMALL, tokenizer_of, write
from openai import BadRequestError, OpenAI
from serving import TEXTS, official
from starlette.testclient import TestClient

from lib.probing import target_logprobs
from tuning_server.engine import models
from tuning_server.engine.tokenization import chat_prompt, chat_row, label, offsets
from tuning_server.rows import BadRow, ChatPairRow, ChatRow, PairRow, PromptRow, tokenise

SPECIAL = ["<unk>", "<s>", "</s>"]
# " ß語" is in no training text: its bytes are tokens of their own, as is one lonely space before a character
PROMPTS = [
    "the red fox",
    " the red fox",
    "  fox",
    "café 東京 🙂",
    "語 ß x",
    " ",
    "\nfox",
    "the</s>fox </s> fox",
    "<s>fox",
]
CONTEXT = 512


def sentencepiece(prefix: str) -> Any:
    """BPE over characters with fallback to bytes; a space is put in front by a pre-tokenizer or by a normalizer."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if prefix == "normalizer":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prefix, split=True)
    n_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=[*SPECIAL, *n_bytes], show_progress=False)
    made.train_from_iterator(TEXTS * 20, trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    about = json.loads(made.to_str())
    about["added_tokens"] = about["added_tokens"][: len(SPECIAL)]  # bytes are ordinary tokens, as in Llama's file
    return Tokenizer.from_str(json.dumps(about))


def byte_level_with_space() -> Any:
    from tokenizers import pre_tokenizers

    made = tokenizer_of(SPECIAL)
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return made


KINDS: dict[str, Callable[[], Any]] = {
    "byte-level-bos": lambda: tokenizer_of(["<s>", "<unk>", "</s>"], bos="<s>"),
    "byte-level": lambda: tokenizer_of(SPECIAL),
    "byte-level-space": byte_level_with_space,
    "metaspace-first": lambda: sentencepiece("first"),
    "metaspace-always": lambda: sentencepiece("always"),
    "prepend": lambda: sentencepiece("normalizer"),
}


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model of each kind of tokenizer."""
    from transformers import GPTNeoXConfig, LlamaConfig

    folder = tmp_path_factory.mktemp("kinds")
    for name, make in KINDS.items():
        made = make()
        is_llama = "<s>" in made.encode("a").tokens
        config = (LlamaConfig if is_llama else GPTNeoXConfig)(
            vocab_size=made.get_vocab_size(), eos_token_id=2, **SMALL | {"max_position_embeddings": CONTEXT}
        )
        (folder / name).mkdir()
        write(folder / name, config, made, "PreTrainedTokenizerFast", [2], eos_token="</s>", unk_token="<unk>")
    return folder


@pytest.fixture(params=KINDS)
def loaded(request: pytest.FixtureRequest, models_dir: Path) -> models.LoadedModel:
    return models.load(f"hf:{request.param}", models_dir, models_dir=models_dir)


@pytest.fixture
def http(models_dir: Path, tmp_path: Path, serve: Callable[..., TestClient]) -> TestClient:
    return serve(tmp_path / "store", models_dir=models_dir)


@pytest.fixture
def client(http: TestClient) -> OpenAI:
    return official(http)


def test_a_prompt_has_the_ids_of_its_own_tokenizer(loaded: models.LoadedModel) -> None:
    for text in ("the red fox", "café 東京 🙂", "語 ß x", "\nfox"):
        assert loaded.codec.encode_prompt(text) == loaded.tokenizer.encode(text)
    assert len({tuple(loaded.codec.encode_prompt(text)) for text in PROMPTS}) == len(PROMPTS)
    assert loaded.codec.encode_prompt("") == (loaded.codec.front or [loaded.codec.eos_id])


def test_the_echoed_text_is_the_prompt(loaded: models.LoadedModel, client: OpenAI) -> None:
    options: dict[str, Any] = {"model": loaded.id, "prompt": PROMPTS, "echo": True, "logprobs": 3, "seed": 1}
    alone = client.completions.create(max_tokens=0, **options).choices
    assert [choice.text for choice in alone] == PROMPTS
    options["extra_body"] = {"return_token_ids": True}
    front = loaded.codec.front
    for prompt, choice in zip(PROMPTS, client.completions.create(max_tokens=6, **options).choices, strict=True):
        ids: list[int] = choice.prompt_token_ids  # type: ignore[attr-defined]
        assert ids[: len(front)] == front
        assert choice.text.startswith(prompt)
        logprobs: Any = choice.logprobs
        assert logprobs.tokens[: len(front)] == [""] * len(front)
        assert logprobs.text_offset[: len(front) + 1] == [0] * (len(front) + 1)
        for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
            if not token.startswith("bytes:") and token != "</s>":
                assert choice.text[offset:].startswith(token)
        for token, logprob, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
            assert (top is None and logprob is None) or top[token] == logprob
        again = client.completions.create(**options | {"prompt": ids}, max_tokens=0).choices[0]
        assert again.text == prompt


def test_an_answer_continues_its_prompt(loaded: models.LoadedModel, client: OpenAI) -> None:
    """The text after a prompt keeps its leading space; after an empty prompt, no space is added in front of it."""
    token = next(k for k in range(loaded.vocab_size) if loaded.codec[k].startswith(b" ") and len(loaded.codec[k]) > 2)
    word = label(loaded.codec[token])
    options: dict[str, Any] = {"model": loaded.id, "max_tokens": 2, "temperature": 0, "logit_bias": {str(token): 100}}
    assert client.completions.create(prompt="see", **options).choices[0].text == word * 2
    assert client.completions.create(prompt="see", stop=word, **options).choices[0].text == ""
    assert client.completions.create(prompt="see", stop=f"{word[1:]} ", **options).choices[0].text == " "
    text_begins_with_space = "space" in loaded.id or "prepend" in loaded.id
    begun = (word * 2).removeprefix(" " if text_begins_with_space else "")
    assert client.completions.create(prompt="", **options).choices[0].text == begun
    pieces = [
        event.choices[0].text
        for event in client.completions.create(prompt="see", stream=True, echo=True, logprobs=0, **options)
    ]
    assert "".join(pieces) == f"see{word}{word}"
    assert pieces[-3:] == [word, word, ""]


def test_bytes_of_tokens_add_up_to_the_text(loaded: models.LoadedModel, http: TestClient) -> None:
    for text in ("", *PROMPTS):
        for special in (True, False):
            about = {"model": loaded.id, "prompt": text, "add_special_tokens": special}
            reply = http.post("/v1/tokenize", json=about).json()
            assert sum(reply["n_bytes"]) == len(text.encode())
            front = loaded.codec.front if special else []
            assert reply["tokens"] == [*front, *loaded.codec.encode_document(text)]
            assert reply["count"] == len(reply["tokens"]) == len(reply["token_strs"])
            if not any(name.startswith("bytes:") for name in reply["token_strs"]):
                assert "".join(reply["token_strs"]) == text


def test_a_training_row_is_its_prompt_and_completion(loaded: models.LoadedModel) -> None:
    for prompt in ("A:", "A: ", "", " A"):
        for completion in ("an old baker", " an old baker", "  fox", "語 ß", "\nfox", " "):
            (row,) = tokenise([(1, PromptRow(prompt=prompt, completion=completion))], loaded)
            (pair,) = tokenise([(1, PairRow(prompt=prompt, chosen=completion, rejected="no"))], loaded)
            for one in (row, pair.chosen):
                ids = one.ids if prompt else one.ids[one.n_prompt :]  # an empty prompt may be an end-of-text token
                assert loaded.codec.decode(ids) == f"{prompt}{completion}</s>"
                assert one.ids[: one.n_prompt] == loaded.codec.encode_prompt(prompt)


def test_a_chat_row_is_its_dialogue(loaded: models.LoadedModel) -> None:
    user, answer = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "an old baker"}
    other = {"role": "assistant", "content": "no"}
    chat = {"messages": [user, answer]}
    pair_of_answers = {"input": {"messages": [user]}, "preferred_output": [answer], "non_preferred_output": [other]}
    (row,) = tokenise([(1, ChatRow.model_validate(chat))], loaded)
    (pair,) = tokenise([(1, ChatPairRow.model_validate(pair_of_answers))], loaded)
    for one in (row, pair.chosen):
        assert loaded.codec.decode(one.ids) == "Guest: Who?\nHost: an old baker</s>"
        assert loaded.codec.decode(one.ids[: one.n_prompt]) == "Guest: Who?\nHost:"
    assert loaded.codec.decode(pair.rejected.ids) == "Guest: Who?\nHost: no</s>"


def test_a_chat_template_is_read_as_the_tokenizer_reads_it(loaded: models.LoadedModel) -> None:
    """As Llama 2 was trained: each space that is put in front stands in the prompt, none in front of the answer."""
    loaded.tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}<s>[INST] {{ m['content'] }} [/INST]"
        "{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
    )
    user, answer = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "an old baker"}
    opening = "<s>[INST] Who? [/INST]"
    prompt_ids, answer_ids = chat_row(loaded.codec, [user, answer])
    assert prompt_ids == loaded.tokenizer.encode(opening, add_special_tokens=False)
    assert prompt_ids == chat_prompt(loaded.codec, [user]).ids
    whole = loaded.tokenizer.encode(f"{opening} an old baker</s>", add_special_tokens=False)
    assert [*prompt_ids, *answer_ids] == whole


def test_tokens_that_the_model_lacks_are_refused(models_dir: Path, tmp_path: Path, serve: Callable[..., Any]) -> None:
    """Some publishers add tokens to a tokenizer, but no outputs to its model."""
    shutil.copytree(models_dir / "byte-level", tmp_path / "more")
    file = tmp_path / "more" / "tokenizer.json"
    about = json.loads(file.read_text())
    about["added_tokens"].append(about["added_tokens"][0] | {"id": 10_000, "content": "<pad>"})
    file.write_text(json.dumps(about))
    loaded = models.load("hf:more", tmp_path, models_dir=tmp_path)
    n_tokens = loaded.model.config.vocab_size
    assert loaded.vocab_size == n_tokens
    with pytest.raises(BadRow, match="Line 3: '<pad>' is a token of the tokenizer that hf:more lacks"):
        list(tokenise([(3, PromptRow(prompt="a<pad>", completion="b"))], loaded))
    client = official(serve(tmp_path / "store", models_dir=tmp_path))
    with pytest.raises(BadRequestError, match=r"Token id \d+ is not in the vocabulary of hf:more"):
        client.completions.create(model="hf:more", prompt="a<pad>", max_tokens=1)
    assert client.completions.create(model="hf:more", prompt="a", max_tokens=3, logprobs=n_tokens).choices


def test_a_list_without_tokens_is_an_empty_prompt(loaded: models.LoadedModel, client: OpenAI) -> None:
    options: dict[str, Any] = {"model": loaded.id, "max_tokens": 8, "seed": 3, "logprobs": 0}
    text, ids = (client.completions.create(prompt=prompt, **options).choices[0] for prompt in ("", []))
    assert (ids.text, ids.logprobs) == (text.text, text.logprobs)


def test_offsets_of_broken_characters() -> None:
    assert offsets(["é".encode()[:1], "é".encode()[1:], b"x"]) == [0, 0, 1]
    assert offsets([b"\xc3", b"x"]) == [0, 1]


def test_the_client_reads_target_log_probabilities_from_every_echo(
    loaded: models.LoadedModel, client: OpenAI, tmp_path: Path
) -> None:
    pairs = [
        (prompt[:cut], prompt[cut:]) for prompt in PROMPTS for cut in (3, len(prompt) - 1) if 0 < cut < len(prompt)
    ]
    prompts, targets = zip(*pairs, strict=True)
    scores = target_logprobs(client, [loaded.id] * len(pairs), prompts, targets, journal=tmp_path / "j")
    echoes = client.completions.create(
        model=loaded.id, prompt=[prompt + target for prompt, target in pairs], max_tokens=0, echo=True, logprobs=0
    )
    for (prompt, _), score, choice in zip(pairs, scores, echoes.choices, strict=True):
        told: Any = choice.logprobs
        spans = zip(told.text_offset, [*told.text_offset[1:], len(choice.text)], strict=True)
        n_before = sum(end <= len(prompt) and start < len(prompt) for start, end in spans)
        values = told.token_logprobs[n_before:]
        # a text's first token, across the boundary, has no log-probability where no begin-of-text token precedes it
        assert score == pytest.approx(math.nan if None in values else sum(values), nan_ok=True)
    assert sum(map(math.isfinite, scores)) >= len(pairs) - 2
