"""Alias of ``python -m tuning_server pretrain``, where pre-training went."""

import subprocess
import sys

if __name__ == "__main__":
    sys.stderr.write("lib.base is now: python -m tuning_server pretrain NAME --corpus PATH\n")
    sys.exit(subprocess.run([sys.executable, "-m", "tuning_server", "pretrain", *sys.argv[1:]]).returncode)
