"""Can a model with older weights be used here? Make safetensors of them, once: ``python -m lib.convert FOLDER OUT``.

FOLDER has ``pytorch_model*.bin``; OUT, below the server's ``--models`` folder, is then asked for as ``hf:OUT``. Exit
codes: 0 written, 1 not a model that can be converted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m lib.convert", description="Write older weights as safetensors.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="model with pytorch_model*.bin")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to write; must not hold anything else")
    args = parser.parse_args(argv)
    from tuning_server.engine.pretrained import convert  # only now: --help should not wait for torch

    try:
        made = convert(args.folder, args.out)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{args.out}: {made.architecture}, {made.n_weights:,} weights as safetensors\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
