"""Tables of answers, scores and summary.csv, checked, and written whole or not at all.

Columns beyond a schema's are kept in answers and scores: for answers, the cluster (a person, a prompt).
"""

from lib.summary import read_summaries, write_summary
from lib.tables.parquet import ANSWERS, Schema, read_table, write_table
from lib.tables.summary import Summary, read_summary

__all__ = [
    "ANSWERS",
    "Schema",
    "Summary",
    "read_summaries",
    "read_summary",
    "read_table",
    "write_summary",
    "write_table",
]
