"""The tuning server: an OpenAI-compatible API for fine-tuning, sampling and scoring open weights. It imports no `lib`.

Start with `__main__`, `process` and `app` (how it starts, and who may send requests), `completions` and `worker` (how a
request becomes part of a batch), `jobs`, `trainer` and `store` (how a job becomes a model, and survives a kill).
"""
