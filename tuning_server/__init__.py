"""The API: an OpenAI-compatible server over open weights. The only room that imports FastAPI.

Where to begin: `__main__` and `app` (how it starts), `gate` (who may come in), `completions` and `worker` (how a
request becomes part of a batch), `jobs`, `trainer` and `store` (how a job becomes a model, and survives a kill). Every
other file is one endpoint, one format or one check; ``check/`` is a command of its own, ``page/`` what people see.
"""
