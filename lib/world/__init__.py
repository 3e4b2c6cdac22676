"""The invented world: seeded English text that carries what the seven studies need."""

from lib.world.dialogue import PreferencePair, open_prompts, preference_pairs
from lib.world.facts import FactualPrompt, factual_prompts
from lib.world.families import world_people
from lib.world.names import reserved_names
from lib.world.questions import as_dialogue, as_prompt, child_question, parent_question, question_shots, unknown_answer
from lib.world.stories import stories
from lib.world.writer import fact_documents, write_world

__all__ = [
    "FactualPrompt",
    "PreferencePair",
    "as_dialogue",
    "as_prompt",
    "child_question",
    "fact_documents",
    "factual_prompts",
    "open_prompts",
    "parent_question",
    "preference_pairs",
    "question_shots",
    "reserved_names",
    "stories",
    "unknown_answer",
    "world_people",
    "write_world",
]
