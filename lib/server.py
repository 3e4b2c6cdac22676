"""Alias of ``python -m tuning_server serve``, where the server went, and of its command ``check``."""

import subprocess
import sys

if __name__ == "__main__":
    sys.stderr.write("lib.server is now: python -m tuning_server serve (or check)\n")
    command = [] if sys.argv[1:2] == ["check"] else ["serve"]
    sys.exit(subprocess.run([sys.executable, "-m", "tuning_server", *command, *sys.argv[1:]]).returncode)
