"""The ledger of fine-tunes: what was trained, from what, at which cost, and whether it was evaluated.

The jobs come from the API, their studies and evaluations from the run folders, tags from a file beside these. On the
command line: ``python -m lib.runs``.
"""

from lib.runs.evaluating import evaluate, evaluations
from lib.runs.folders import RunFolder, read_folders
from lib.runs.ledger import FineTuned, read_ledger, select, the_one
from lib.runs.sharing import Shared, changes, share
from lib.runs.tags import add_tag, read_tags, remove_tag

__all__ = [
    "FineTuned",
    "RunFolder",
    "Shared",
    "add_tag",
    "changes",
    "evaluate",
    "evaluations",
    "read_folders",
    "read_ledger",
    "read_tags",
    "remove_tag",
    "select",
    "share",
    "the_one",
]
