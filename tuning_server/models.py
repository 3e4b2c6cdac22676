"""Endpoints of ``/v1/models``: the bases and fine-tunes of the store."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from openai.types import Model, ModelDeleted

from tuning_server.disk import read_json
from tuning_server.engine import registry
from tuning_server.engine.devices import choose_placement
from tuning_server.engine.folders import drop
from tuning_server.engine.lora import read_adapter
from tuning_server.engine.models import about, sizes
from tuning_server.engine.registry import ModelInfo
from tuning_server.errors import ApiError, model_error
from tuning_server.service import CurrentService
from tuning_server.store import UNFINISHED
from tuning_server.types import Page

router = APIRouter(prefix="/v1/models", tags=["models"])


def _described(info: ModelInfo, *, listed: bool = False) -> Model:
    """A model as the API shows it; what OpenAI's lacks stands in extra fields.

    Parameters
    ----------
    listed : among many: its card is believed where the files have the sizes that it says

    Raises
    ------
    UnknownModel
        If its files are damaged.
    """
    try:
        card = info.card or registry.card_of(info.folder)
        is_known = listed and "sizes" in card and card["sizes"] == sizes(info.folder)
        known = card["about"] if is_known else about(info.id, info.folder)
    except (OSError, ValueError) as error:
        raise registry.broken(info.id, info.folder, error) from error
    device, dtype = choose_placement(known["n_weights"])
    extras = {
        **known, "parent": info.parent, "device": device.type, "dtype": str(dtype).removeprefix("torch."),
        "learning_rate": registry.reference_learning_rate(card, known["n_weights"]), "origin": card.get("origin"),
    }  # fmt: skip
    return Model(id=info.id, created=info.created, object="model", owned_by=info.owned_by, **extras)


@router.get("", response_model=Page)
def list_all(service: CurrentService) -> Page:
    """Every base, fine-tune and checkpoint, oldest first; one that is damaged says so in ``broken``."""
    found = []
    for info in registry.list_models(service.settings.weights):
        try:
            found.append(_described(info, listed=True))
        except registry.UnknownModel as error:
            facts: Any = {"owned_by": info.owned_by, "parent": info.parent, "broken": model_error(error).message}
            found.append(Model(id=info.id, created=info.created, object="model", **facts))
    return {"object": "list", "data": found}


@router.get("/{model_id:path}", response_model=Model)
def retrieve(model_id: str, service: CurrentService) -> Model:
    """One model; also an ``hf:`` one that the list does not name."""
    folder = service.folder(model_id)
    card = read_json(folder / "tuned.json") if (folder / "tuned.json").is_file() else {}
    owner = "user" if card else "huggingface" if model_id.startswith("hf:") else "tuning-fork"
    return _described(ModelInfo(model_id, folder, owner, card.get("parent"), card or None))


@router.delete("/{model_id:path}", response_model=ModelDeleted)
def delete(model_id: str, service: CurrentService) -> ModelDeleted:
    """Delete a fine-tune or one of its checkpoints; models that were trained from it stay whole.

    One that adapters stand on is kept: they are nothing without it.
    """
    folder = service.folder(model_id)
    if not (folder / "tuned.json").is_file():
        message = f"{model_id} is not a fine-tune: only those can be deleted over the API."
        raise ApiError(message, status=403, param="model", code="not_deletable")
    for info in registry.list_models(service.settings.weights):
        adapter = read_adapter(info.folder)
        if adapter is not None and adapter.base == model_id:
            message = f"{info.id} is adapters (LoRA) of {model_id}: delete that one first."
            raise ApiError(message, param="model", code="model_in_use")
    for job in service.store.jobs_in(*UNFINISHED):
        if job["_short"] == folder.parent.name or job["model"] == model_id:
            message = f"{model_id} is in use by job {job['id']}: cancel that first."
            raise ApiError(message, param="model", code="model_in_use")
    service.store.delete_checkpoint(model_id)  # first, as with files: a kill leaves weights without a record
    drop(folder)
    if not any(left.is_dir() for left in folder.parent.iterdir()):
        drop(folder.parent)
    return ModelDeleted(id=model_id, deleted=True, object="model")
