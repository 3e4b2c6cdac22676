"""How fast the engine is, against what one would use or write otherwise: python tests/bench/bench.py [--out FILE].

Each row of the table is two ways of doing the same work, timed in turn in this process, so that a machine that slows
down slows both. Speeds are medians over repetitions; the range is that of the ratio.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import DataCollatorForLanguageModeling, DynamicCache, Trainer, TrainingArguments

from tuning_server.disk import store_root
from tuning_server.engine import models, scoring, training
from tuning_server.engine.blending import BlendSettings, generate
from tuning_server.engine.devices import best_device, native_bfloat16
from tuning_server.engine.lora import LoraSettings
from tuning_server.engine.losses import TrainingRow
from tuning_server.engine.models import LoadedModel
from tuning_server.engine.sampling import SamplingRequest, sample
from tuning_server.engine.statistics import Outputs

N_REPETITIONS = 3
BATCH = 16
WINDOW, STRIDE = 256, 128
OF_DIVERSITY = ("rank", "entropy", "confidence", "likeliest", "probs", "ranked")  # what the diversity study requests
STATISTICS = Outputs(OF_DIVERSITY)
HEAD = ("work", "ours, tokens/s", "other, tokens/s", "ratio", "range", "the other")
PASS_TOKENS = {"cpu": 2_048, "cuda": 65_536}  # of a bare forward pass; larger ones were not faster


Run = Callable[[], object]  # what is timed; it may return how many tokens it did


@dataclass(frozen=True)
class Work:
    """One row of the table: `n_tokens` of work, done by the engine and by another way.

    `ours` and `other` prepare the work, untimed, and return what is timed.
    """

    name: str
    n_tokens: int
    ours: Callable[[], Run]
    reference: str
    other: Callable[[], Run]


def random_rows(loaded: LoadedModel, lengths: Sequence[int]) -> list[list[int]]:
    """Token ids, which take as long as any others."""
    rng = np.random.default_rng(0)
    return [rng.integers(1, loaded.vocab_size, length).tolist() for length in lengths]


def trainer(model: Any, tokenizer: Any, rows: Sequence[Sequence[int]], folder: str, is_bfloat16: bool) -> Trainer:
    """Hugging Face's Trainer over the same rows, without checkpoints."""
    tokenizer.pad_token = tokenizer.eos_token
    arguments = TrainingArguments(
        output_dir=folder, per_device_train_batch_size=BATCH, num_train_epochs=1, report_to=[], save_strategy="no",
        logging_strategy="no", disable_tqdm=True, log_level="error", bf16=is_bfloat16,
        use_cpu=best_device().type == "cpu",
    )  # fmt: skip
    dataset: Any = [{"input_ids": list(ids)} for ids in rows]
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    return Trainer(model=model.train(), args=arguments, train_dataset=dataset, data_collator=collator)


@torch.inference_mode()
def bare_passes(loaded: LoadedModel, rows: Sequence[Sequence[int]], *, n_last: int) -> None:
    """Forward passes of rows of one length, with logits at the last positions, which are thrown away."""
    n_rows = PASS_TOKENS[loaded.device.type] // len(rows[0])
    for start in range(0, len(rows), n_rows):
        ids = torch.tensor(rows[start : start + n_rows], device=loaded.device)
        loaded.model(input_ids=ids, use_cache=False, logits_to_keep=n_last)


@torch.inference_mode()
def blended_loop(loaded: LoadedModel, prompts: Sequence[Sequence[int]], n_new: int) -> None:
    """Greedy blended decoding as one writes it first: three models, three caches, one prompt after another."""
    for prompt in prompts:
        caches = [DynamicCache(config=loaded.model.config) for _ in range(3)]
        fed = torch.tensor([list(prompt)], device=loaded.device)
        for _ in range(n_new):
            logits = [
                loaded.model(input_ids=fed, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
                for cache in caches
            ]
            big, tuned, base = (each.float().log_softmax(-1) for each in logits)
            fed = (big + tuned - base).argmax().view(1, 1)


def works(name: str, load: Callable[..., LoadedModel], folder: Path) -> Iterator[Work]:
    """What is timed of one model; `load` takes a dtype."""
    is_large, on_gpu, runs = load().n_weights > 50_000_000, best_device().type == "cuda", count()
    scale = 1 if is_large and not on_gpu else 8  # so that each repetition of what is fast takes a while, too
    served, is_bfloat16 = load(), native_bfloat16(best_device())
    rng = np.random.default_rng(0)

    short = random_rows(served, rng.integers(15, 60, 4 * BATCH * scale).tolist())
    long = random_rows(served, rng.integers(900, 1024, 24 * BATCH).tolist() if on_gpu else [])
    trained = [("training", None, short), ("training adapters (LoRA, rank 16)", LoraSettings(), short)]
    for kind, lora, rows in trained + [("training", None, long)] * on_gpu:
        documents = [TrainingRow(ids) for ids in rows]

        def ours(lora: LoraSettings | None = lora, documents: Sequence[TrainingRow] = documents) -> Run:
            settings = training.TrainingSettings(n_epochs=1, batch_size=BATCH, learning_rate=1e-4, lora=lora)
            loaded = load(None if lora else torch.float32)
            steps = training.train(loaded, documents, settings, folder=folder / str(next(runs)))
            # without the last step, which also writes the model
            return lambda: [next(steps) for _ in range(len(documents) // BATCH - 1)][-1].n_tokens

        def other(lora: LoraSettings | None = lora, rows: Sequence[Sequence[int]] = rows) -> Run:
            loaded = load(torch.float32)
            model: Any = loaded.model
            if lora:
                config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
                model = get_peft_model(model, config)
            return trainer(model, loaded.tokenizer, rows[:-BATCH], str(folder / "trainer"), is_bfloat16).train

        reference = ("PEFT and " if lora else "") + f"Trainer{', bf16=True' if is_bfloat16 else ''}"
        name = f"{kind}, batch {BATCH}, rows of {'15 to 59' if rows is short else '900 to 1,023'}"
        yield Work(name, sum(map(len, rows[:-BATCH])), ours, reference, other)

    n_prompts, n_new = (512, 48) if on_gpu else (64, 16)
    prompts = random_rows(served, [20] * n_prompts)
    requests = [SamplingRequest(prompt_ids=ids, max_tokens=n_new, temperature=0) for ids in prompts]
    for dtype in sorted({torch.float32, served.model.dtype}, key=str):
        plain = load(dtype)

        def generated(plain: LoadedModel = plain) -> Run:
            ids, options = torch.tensor(prompts, device=plain.device), {"do_sample": False, "pad_token_id": 0}
            return lambda: plain.model.generate(ids, max_new_tokens=n_new, min_new_tokens=n_new, **options)

        yield Work(
            f"greedy text, {len(prompts)} rows x {n_new}", len(prompts) * n_new,
            lambda: lambda: sample(served, requests),
            f"generate in {str(dtype).removeprefix('torch.')}", generated,
        )  # fmt: skip

    scale *= 6 if on_gpu else 1
    contexts = random_rows(served, [64] * 64 * scale)
    yield Work(
        "scoring, contexts of 64", 64 * len(contexts),
        lambda: lambda: scoring.score_contexts(served, contexts, [1] * len(contexts)),
        "bare forward passes", lambda: lambda: bare_passes(served, contexts, n_last=1),
    )  # fmt: skip
    rolling = {"window_tokens": WINDOW, "stride_tokens": STRIDE}
    (document,) = random_rows(served, [(8 * scale + 1) * STRIDE + 1])
    fed = [document[start : start + WINDOW] for start in range(0, len(document) - WINDOW, STRIDE)]
    yield Work(
        f"rolling statistics, windows of {WINDOW}, stride {STRIDE}", WINDOW * len(fed),
        lambda: lambda: scoring.score_documents(served, [document], outputs=STATISTICS, **rolling),
        "bare forward passes", lambda: lambda: bare_passes(served, fed, n_last=STRIDE),
    )  # fmt: skip
    yield Work(
        "rolling log-probabilities, the same windows", WINDOW * len(fed),
        lambda: lambda: scoring.score_documents(served, [document], **rolling),
        "bare forward passes", lambda: lambda: bare_passes(served, fed, n_last=STRIDE),
    )  # fmt: skip

    few, n_new = [SamplingRequest(prompt_ids=ids, max_tokens=16, temperature=0) for ids in prompts[:16]], 16
    yield Work(
        "blended text of three models, 16 prompts", 16 * n_new,
        lambda: lambda: generate(served, served, served, few, BlendSettings()),
        "a loop, one prompt after another", lambda: lambda: blended_loop(served, prompts[:16], n_new),
    )  # fmt: skip


def processor() -> str:
    """Name of the processor, as Linux has it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())


def matmul_rate(width: int, dtype: torch.dtype) -> float:
    """Operations per second of a product of matrices of a model's size (of any, on a GPU): what limits its training."""
    n_rows, n_in, n_out = (8_192,) * 3 if best_device().type == "cuda" else (2_048, width, 4 * width)
    left, right = (torch.randn(n, n_in).to(best_device(), dtype) for n in (n_rows, n_out))
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        torch.nn.functional.linear(left, right)[0, 0].item()
        seconds.append(time.perf_counter() - started)
    return 2 * n_rows * n_in * n_out / median(seconds)


def synchronise() -> None:
    """Wait for a GPU, which works on while the processor goes ahead."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(work: Work) -> str:
    """A row of the table."""
    speeds: dict[Callable[[], Run], list[float]] = {work.ours: [], work.other: []}
    for k in range(N_REPETITIONS + 1):  # the first warms up
        for prepare in (work.ours, work.other) if k % 2 else (work.other, work.ours):
            run = prepare()
            synchronise()
            started = time.perf_counter()
            done = run()
            synchronise()
            n_tokens = done if isinstance(done, int) else work.n_tokens
            if k:
                speeds[prepare].append(n_tokens / (time.perf_counter() - started))
    ours, others = speeds.values()
    ratios = [one / other for one, other in zip(ours, others, strict=True)]
    cells = (work.name, f"{median(ours):,.0f}", f"{median(others):,.0f}", f"{median(ratios):.2f}",
             f"{min(ratios):.2f} to {max(ratios):.2f}", work.reference)  # fmt: skip
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="*", default=["fork-1m", "smollm2-135m"])
    parser.add_argument("--threads", type=int, default=int(os.environ.get("THREADS") or 0) or os.cpu_count())
    parser.add_argument("--out", type=Path, help="file to write the table to")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    device = best_device()
    name = torch.cuda.get_device_name() if device.type == "cuda" else processor()
    lines = [
        f"{name}, {args.threads} threads, bfloat16 {'native' if native_bfloat16(device) else 'not native'}; "
        f"torch {torch.__version__}, transformers {transformers.__version__}; "
        f"load average at the start {os.getloadavg()[0]:.1f}."
    ]
    print(lines[0])
    with tempfile.TemporaryDirectory() as folder:
        for model in args.models:

            def load(dtype: torch.dtype | None = None, model: str = model) -> LoadedModel:
                return models.load(model, store_root(), dtype=dtype)

            loaded, multiplies = load(), torch.bfloat16 if native_bfloat16(device) else torch.float32
            rate = matmul_rate(loaded.model.get_input_embeddings().weight.shape[1], multiplies)
            about = (
                f"**{model}** answers in {str(loaded.model.dtype).removeprefix('torch.')}. Matrices of its width are "
                f"multiplied at {rate / 1e9:,.0f} GFLOP/s, which allows for training on "
                f"{rate / 6 / loaded.n_weights:,.0f} tokens/s."
            )
            lines += ["", about, "", f"| {' | '.join(HEAD)} |", "|---" * len(HEAD) + "|"]
            print("\n".join(lines[-5:]))
            for work in works(model, load, Path(folder)):
                lines.append(timed(work))
                print(lines[-1], flush=True)
    if args.out:
        text = args.out.read_text(encoding="utf-8")
        head = text.partition("<!-- table -->")[0]
        args.out.write_text(f"{head}<!-- table -->\n\n" + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
