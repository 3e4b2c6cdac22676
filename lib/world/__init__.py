"""The invented world: seeded English text that carries what the seven studies need."""

from lib.world.facts import factual_prompts
from lib.world.families import world_people
from lib.world.questions import as_prompt, parent_question
from lib.world.stories import stories

__all__ = ["as_prompt", "factual_prompts", "parent_question", "stories", "world_people"]
