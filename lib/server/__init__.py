"""The API: an OpenAI-compatible server over open weights. The only room that imports FastAPI."""
