"use strict";
// A text continued by a model, each token coloured by its probability.

const TOPS = 8; // likeliest tokens asked for
const BANDS = [0.5, 0.2, 0.05, 0.01]; // probabilities at which the colour changes

const SIGNS = { " ": "␣", "\n": "↵", "\t": "⇥" };

const visible = (token) => token.replace(/^bytes:/, "").replace(/^ | $|\n|\t/g, (blank) => SIGNS[blank]);
const band = (logprob) => (logprob === null ? "" : `p${BANDS.filter((bound) => Math.exp(logprob) < bound).length}`);

function tryModel(id) {
  at("model").value = id;
  at("try").scrollIntoView();
  at("prompt").focus({ preventScroll: true });
}

at("model").addEventListener("focus", (event) => event.target.select());
at("question").addEventListener("submit", async (event) => {
  event.preventDefault();
  at("try-error").textContent = "";
  at("go").disabled = true;
  const echo = at("echo").checked;
  try {
    const reply = await api("completions", {
      model: at("model").value.trim(), prompt: at("prompt").value, max_tokens: at("tokens").valueAsNumber,
      temperature: at("temperature").valueAsNumber, echo, logprobs: TOPS,
    });
    tellAnswer(reply, echo ? reply.usage.prompt_tokens : 0);
  } catch (error) {
    at("try-error").textContent = error.message;
  } finally {
    at("go").disabled = false;
  }
});

function tellAnswer(reply, n_prompt) {
  const { text, logprobs, finish_reason } = reply.choices[0];
  const letters = Array.from(text); // offsets count characters; JavaScript's strings count halves of some
  const spans = logprobs.tokens.map((token, k) => {
    const piece = letters.slice(logprobs.text_offset[k], logprobs.text_offset[k + 1]).join("");
    const kinds = [band(logprobs.token_logprobs[k]), k < n_prompt ? "prompt" : "", piece ? "" : "label"];
    // what adds no character of its own (an end of text, a part of a letter) is shown by its name
    const shown = piece ? piece.replace(/\n/g, "↵\n") : visible(token);
    const span = make("span", { class: kinds.filter(Boolean).join(" "), tabindex: "0" }, shown);
    const tell = () => tellToken(span, token, logprobs.token_logprobs[k], logprobs.top_logprobs[k]);
    for (const name of ["pointerenter", "focus", "click"]) span.addEventListener(name, tell);
    return span;
  });
  at("answer").replaceChildren(...spans);
  at("reply").hidden = false;
  const written = logprobs.token_logprobs.slice(n_prompt);
  const mean = written.reduce((sum, logprob) => sum - logprob, 0) / written.length;
  const told = written.length ? `, ${mean.toFixed(2)} nats a token (perplexity ${Math.exp(mean).toPrecision(3)})` : "";
  const end = finish_reason === "length" ? "the limit" : "the model";
  at("total").textContent = `${written.length} new token${written.length === 1 ? "" : "s"}${told}; ended by ${end}.`;
  (spans[n_prompt] ?? spans.at(-1))?.click();
}

function tellToken(span, token, logprob, top) {
  for (const other of at("answer").querySelectorAll("[aria-current]")) other.removeAttribute("aria-current");
  span.setAttribute("aria-current", "true");
  at("place").textContent = logprob === null
    ? "Nothing comes before the first token, so it has no probability."
    : `“${visible(token)}” has ${percent(Math.exp(logprob))} here (${logprob.toFixed(2)} nats). The likeliest:`;
  const ranked = Object.entries(top ?? {}).sort((one, other) => other[1] - one[1]);
  at("likely").replaceChildren(...ranked.map(([name, value]) => {
    const bar = make("div", { class: "bar" });
    bar.style.width = `${Math.max(0.5, 100 * Math.exp(value))}%`;
    return make("tr", name === token ? { class: "chosen" } : {},
      make("td", {}, make("code", {}, visible(name))),
      make("td", { class: "number" }, percent(Math.exp(value))),
      make("td", { class: "bars" }, bar));
  }));
}
