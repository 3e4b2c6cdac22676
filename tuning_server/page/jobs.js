"use strict";
// The list of jobs, the one that is shown, and the round that keeps all of it fresh.

const ENDED = ["succeeded", "failed", "cancelled"];
const LONG = ["Model", "Fine-tuned model", "Created"]; // facts that take two columns
const AT_WORK = ["validating_files", "queued", "running"];
const ACTS = { pause: AT_WORK, resume: ["paused"], cancel: [...AT_WORK, "paused"] }; // buttons, and when they are there
const jobs = new Map(); // by id: the job and its row in the list
let chosen = null; // id of the job that is shown
let story = { id: null, status: "", events: [] }; // its events, newest first

const title = (job) => job.user_provided_suffix || job.fine_tuned_model || job.id;
const ended = () => [...jobs.values()].filter(({ job }) => ENDED.includes(job.status)).length;

function setStatus(element, job) {
  element.dataset.status = job.status;
  setText(element, job.status.replaceAll("_", " "));
}

function takeJob(job, put) {
  let row = jobs.get(job.id)?.row;
  if (!row) {
    row = make("button", { "data-job": job.id, "aria-pressed": "false" },
      make("div", {}, make("span", { class: "name" }), make("span")),
      make("div", { class: "soft" }, make("span", { class: "name" }), make("span")));
    row.addEventListener("click", () => choose(job.id));
    at("job-list")[put](row);
  }
  jobs.set(job.id, { job, row });
  const [name, status, model, date] = row.querySelectorAll("span");
  setText(name, title(job));
  setStatus(status, job);
  setText(model, job.model);
  setText(date, when(job.created_at));
}

async function refreshJobs() {
  const page = await api("fine_tuning/jobs?limit=20");
  if (!jobs.size) at("older").hidden = !page.has_more;
  for (const job of page.data.reverse()) takeJob(job, "prepend");
  at("no-jobs").hidden = jobs.size > 0;
  at("has-jobs").hidden = jobs.size === 0;
  if (!chosen && jobs.size) choose(page.data.at(-1).id);
  else await refreshStory();
}

at("older").addEventListener("click", () => attempt(async () => {
  const page = await api(`fine_tuning/jobs?limit=20&after=${at("job-list").lastElementChild.dataset.job}`);
  for (const job of page.data) takeJob(job, "append");
  at("older").hidden = !page.has_more;
}));

function choose(id) {
  chosen = id;
  for (const [each, { row }] of jobs) row.setAttribute("aria-pressed", each === id);
  attempt(refreshStory);
}

async function eventsOf(id, known) {
  const recent = (await api(`fine_tuning/jobs/${id}/events?limit=40`)).data;
  const n_new = recent.findIndex((event) => event.id === known[0]?.id);
  const fresh = recent.slice(0, Math.max(0, n_new));
  const before = known.find((event) => event.type === "metrics")?.data.step ?? 0;
  // a job that was taken up again tells some of its steps anew
  const again = fresh.some((event) => event.type === "metrics" && event.data.step <= before);
  if (n_new >= 0 && !again) return [...fresh, ...known];
  const events = [];
  for (let more = true, after = ""; more; ) {
    const page = await api(`fine_tuning/jobs/${id}/events?limit=1000${after}`);
    events.push(...page.data);
    more = page.has_more;
    after = `&after=${page.last_id}`;
  }
  return events;
}

async function refreshStory() {
  const id = chosen;
  const job = jobs.get(id)?.job;
  if (!job || (story.id === id && story.status === job.status && ENDED.includes(job.status))) return;
  const events = await eventsOf(id, story.id === id ? story.events : []);
  if (id !== chosen) return; // another one was chosen meanwhile
  story = { id, status: job.status, events };
  tellJob(job, events);
}

function tellJob(job, events) {
  setText(at("job-name"), title(job));
  setStatus(at("job-status"), job);
  setText(at("job-error"), job.error?.message ?? "");
  at("try-job").hidden = !(job.status === "succeeded" && job.fine_tuned_model);
  for (const [act, statuses] of Object.entries(ACTS)) at(act).hidden = !statuses.includes(job.status);
  const metrics = events.filter((event) => event.type === "metrics").map((event) => event.data).reverse();
  const facts = Object.entries(factsOf(job, metrics.at(-1))).filter(([, value]) => value || value === 0);
  at("facts").replaceChildren(...facts.map(([name, value]) =>
    make("div", LONG.includes(name) ? { class: "long" } : {}, make("dt", {}, name), make("dd", {}, String(value)))));
  const messages = events.filter((event) => event.type !== "metrics").slice(0, 200);
  at("messages").replaceChildren(...messages.map((event) =>
    make("li", event.level === "error" ? { class: "bad" } : {}, `${when(event.created_at)}: ${event.message}`)));
  at("no-curve").hidden = metrics.length > 0 || ENDED.includes(job.status);
  at("curve").hidden = metrics.length === 0;
  if (metrics.length) drawCurve(metrics);
}

function factsOf(job, last) {
  const given = job.method?.[job.method.type]?.hyperparameters ?? job.hyperparameters ?? {};
  const running = !ENDED.includes(job.status);
  const left = (job.estimated_finish ?? 0) - Date.now() / 1000;
  return {
    Model: job.model,
    "Fine-tuned model": job.fine_tuned_model,
    Method: job.method?.type,
    Step: last && `${count(last.step)} of ${count(last.total_steps)}`,
    Epochs: given.n_epochs,
    "Batch size": given.batch_size,
    "Learning rate": last?.learning_rate?.toPrecision(2),
    Seed: job.seed,
    "Tokens so far": last && count(last.trained_tokens),
    Speed: running && last && `${count(Math.round(last.tokens_per_second))} tokens/s`,
    "Time left": running && left > 0 && lasting(left),
    Created: when(job.created_at),
    Took: job.finished_at && lasting(job.finished_at - job.created_at),
  };
}

at("try-job").addEventListener("click", () => tryModel(jobs.get(chosen).job.fine_tuned_model));

for (const act of Object.keys(ACTS)) {
  at(act).addEventListener("click", () => attempt(async () => {
    const { job } = jobs.get(chosen);
    if (act === "cancel" && !confirm(`Cancel ${title(job)}? It cannot be taken up again; its checkpoints stay.`)) return;
    await api(`fine_tuning/jobs/${job.id}/${act}`, {});
    await refresh();
  }));
}

// Every second while a job is at work, every five otherwise, and not at all in a tab that nobody sees.

async function refresh() {
  const before = ended();
  await refreshJobs();
  if (ended() !== before || !models.length) await refreshModels();
  show(true);
  setText(at("state"), `Connected to ${location.host}`);
}

async function attempt(action) {
  try {
    await action();
  } catch (error) {
    if (error instanceof NeedsKey) return;
    setText(at("state"), error instanceof TypeError ? "No answer from the server; trying again" : error.message);
  }
}

async function live() {
  const asking = !at("ask").hidden;
  if (!document.hidden && !asking) await attempt(refresh);
  setTimeout(live, asking || ended() < jobs.size ? 1000 : 5000);
}

live();
