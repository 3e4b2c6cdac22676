"""Alias of ``python -m tuning_server serve``, where the server went."""

import subprocess
import sys

if __name__ == "__main__":
    sys.stderr.write("lib.server is now: python -m tuning_server serve\n")
    sys.exit(subprocess.run([sys.executable, "-m", "tuning_server", "serve", *sys.argv[1:]]).returncode)
