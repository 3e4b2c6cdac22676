"use strict";
// The table of models.

let models = []; // newest first
const isCheckpoint = (model) => /:ckpt-step-\d+$/.test(model.id);
const isUntrained = (model) => model.id.endsWith(":init");

async function refreshModels() {
  models = (await api("models")).data.reverse();
  at("ids").replaceChildren(...models.map((model) => make("option", { value: model.id })));
  if (!at("model").value) at("model").value = models.find((model) => !isCheckpoint(model) && !isUntrained(model))?.id ?? "";
  listModels();
}

function listModels() {
  const wanted = at("find").value.toLowerCase();
  const shown = models.filter((model) =>
    model.id.toLowerCase().includes(wanted) && (at("checkpoints").checked || !isCheckpoint(model)));
  at("model-list").replaceChildren(...shown.map(modelRow));
  at("no-models").hidden = shown.length > 0;
}

function modelRow(model) {
  const button = make("button", { class: "small", "aria-label": `Try ${model.id}` }, "Try");
  button.addEventListener("click", () => tryModel(model.id));
  return make("tr", {},
    make("td", {}, model.id),
    make("td", { class: "number" }, model.n_weights ? count(model.n_weights) : ""),
    make("td", { class: "number wide" }, String(model.context_tokens ?? "")),
    make("td", { class: "wide" }, model.parent ?? ""),
    make("td", { class: "wide soft" }, when(model.created)),
    make("td", {}, button));
}

at("find").addEventListener("input", listModels);
at("checkpoints").addEventListener("change", listModels);
