"use strict";
// What asks the server, with its key, and the few pieces that the page is built of.
// Text reaches the page as text alone; the policy that the page is sent with forbids any other way.

const KEY = "tuning-fork-key"; // of sessionStorage: gone with the tab
const at = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children); // strings become text
  return element;
}

function draw(tag, attributes, text = "") {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text; // else a selection in it would be lost
}

const when = (seconds) => new Date(1000 * seconds).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
const lasting = (seconds) => (seconds < 90 ? `${Math.ceil(seconds)} s` : `${Math.round(seconds / 60)} min`);
const number = (value) => (Number.isFinite(value) ? value.toFixed(3) : "not a number");

function count(value) {
  const notation = value < 1e5 ? "standard" : "compact";
  return value.toLocaleString("en", { notation, maximumFractionDigits: 2 });
}

function percent(p) {
  return p >= 0.0995 ? `${(100 * p).toFixed(0)}%` : p >= 0.0001 ? `${(100 * p).toFixed(2)}%` : "below 0.01%";
}

class NeedsKey extends Error {}

async function api(path, body) {
  const key = sessionStorage.getItem(KEY);
  const options = { headers: key ? { authorization: `Bearer ${key}` } : {} };
  if (body) {
    options.method = "POST";
    options.headers["content-type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const reply = await fetch(`/v1/${path}`, options);
  const told = await reply.json().catch(() => ({}));
  if (reply.status === 401) {
    sessionStorage.removeItem(KEY);
    at("refused").textContent = key ? "The server does not know this key." : "";
    show(false);
    throw new NeedsKey("This server asks for its key.");
  }
  if (!reply.ok) throw new Error(told.error?.message ?? `The server answered with status ${reply.status}.`);
  return told;
}

function show(open) {
  const main = document.querySelector("main");
  const opened = open && main.hidden;
  const closed = !open && at("ask").hidden;
  at("ask").hidden = open;
  main.hidden = document.querySelector("nav").hidden = !open;
  at("forget").hidden = !open || !sessionStorage.getItem(KEY);
  if (closed) {
    setText(at("state"), "");
    at("key").focus();
  }
  if (opened && location.hash) at(location.hash.slice(1))?.scrollIntoView();
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = at("key").value.trim();
  at("key").value = "";
  at("refused").textContent = /[^ -~]/.test(key) ? "A key has letters, digits and signs of ASCII only." : "";
  if (at("refused").textContent) return;
  sessionStorage.setItem(KEY, key);
  attempt(refresh);
});
at("forget").addEventListener("click", () => {
  sessionStorage.removeItem(KEY);
  location.reload(); // nothing that the key opened stays on the page
});
