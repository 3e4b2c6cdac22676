"""Open JupyterLab on the notebooks: ``python -m lib.lab [option of jupyter lab ...]``.

A ``.py`` opens as a notebook, a save writes both files of a pair, and nothing outside the environment is configured.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lib.paths import ROOT, write_json

VIEWERS = {"python": "Jupytext Notebook"}


def settings_folder() -> Path:
    """Where this environment's JupyterLab looks for settings that hold unless a person sets others."""
    return Path(sys.prefix) / "share" / "jupyter" / "lab" / "settings"


def command(options: Sequence[str] = ()) -> list[str]:
    """The call of JupyterLab with this project's settings."""
    return [
        *(sys.executable, "-m", "jupyter", "lab"),
        f"--ServerApp.root_dir={ROOT / 'notebooks'}",
        "--FileContentsManager.pre_save_hook=lib.references.pre_save",
        *options,
    ]


def main(options: Sequence[str] | None = None) -> None:
    """Write the settings and become JupyterLab."""
    write_json(
        settings_folder() / "overrides.json",
        {"@jupyterlab/docmanager-extension:plugin": {"defaultViewers": VIEWERS}},
    )
    words = command(sys.argv[1:] if options is None else options)
    # The pairing is declared above the folder that JupyterLab may see; here jupytext looks for it.
    os.environ["XDG_CONFIG_DIRS"] = os.pathsep.join([str(ROOT), os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg")])
    os.chdir(ROOT)
    os.execv(words[0], words)


if __name__ == "__main__":
    main()
