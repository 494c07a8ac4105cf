// A caller's own page. Only the variable below holds the key: no URL, storage or log does.
import { amount, bar, dollars, duration, element, fill, number, stack, words } from "./format.js";

const PERIOD_MS = 30000;

let key = null;
let timer = null;

const at = (id) => document.getElementById(id);

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = at("key").value.trim();
  refresh();
});
at("forget").addEventListener("click", forget);

async function refresh() {
  clearTimeout(timer);
  const asked = key;
  if (document.hidden) return again();
  try {
    const told = await usage(asked);
    if (asked !== key) return;
    show(told);
    again();
  } catch (error) {
    if (asked === key) refuse(error.message);
  }
}

function again() {
  timer = setTimeout(refresh, PERIOD_MS);
}

/** Fetch the usage of the key `asked`. Throws an `Error` whose message the page shows. */
async function usage(asked) {
  if (!/^[\x21-\x7e]+$/.test(asked)) throw new Error("This is not a valid key: keys consist of visible ASCII characters.");
  const headers = { Authorization: `Bearer ${asked}` };
  const answer = await fetch("/v1/usage", { headers, cache: "no-store", credentials: "omit", redirect: "error" })
    .catch(() => { throw new Error("The gateway does not answer. Try again in a moment."); });
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(told.error?.message ?? `The gateway answered ${answer.status}.`);
  return told;
}

function refuse(message) {
  hide();
  at("problem").textContent = message;
  at("problem").hidden = false;
}

function forget() {
  clearTimeout(timer);
  key = null;
  at("key").value = "";
  at("problem").hidden = true;
  hide();
  at("key").focus();
}

function hide() {
  document.querySelectorAll("[data-result]").forEach((section) => section.remove());
  at("forget").hidden = true;
  at("updated").textContent = "";
}

function show(told) {
  hide();
  const made = at("result").content.cloneNode(true);
  for (const section of made.children) section.dataset.result = "";
  document.querySelector("main").append(made);
  at("problem").hidden = true;
  at("forget").hidden = false;
  at("updated").textContent = new Date().toLocaleTimeString([], { hour12: false });
  at("who").textContent = told.user;
  at("which").textContent = [told.team && `team ${told.team}`, told.tier && `tier ${told.tier}`, told.key_id && `key ${told.key_id}`]
    .filter(Boolean).join(" · ");
  at("refusal").hidden = !told.refusal;
  at("refusal").textContent = told.refusal?.message ?? "";
  limits(told.limits);
  if (told.today) used(told);
  else refuseNumbers();
}

function refuseNumbers() {
  for (const id of ["tokens-today", "cost-today", "tokens-month", "cost-month"]) at(id).textContent = "–";
  fill(at("numbers"), [], "usage is not available right now");
}

function limits(found) {
  const shown = found.map((each) => element("div", {},
    element("div", { class: "row" }, element("span", {}, words(each.name)), element("span", { class: "quiet" }, `${amount(each.name, each.used)} of ${amount(each.name, each.limit)}`)),
    bar(each.limit ? each.used / each.limit : 1),
    element("span", { class: "quiet" }, left(each))));
  at("limits").replaceChildren(...(shown.length ? shown : [element("span", { class: "quiet" }, "no limits")]));
}

function left(limit) {
  const when = limit.used && limit.reset_s !== undefined ? `, resets in ${duration(limit.reset_s)}` : "";
  return `${amount(limit.name, limit.remaining)} left${when}${limit.shadow ? " (counted, not enforced)" : ""}`;
}

const tokens = (of) => of.prompt_tokens + of.completion_tokens;

function used(told) {
  at("tokens-today").textContent = number(tokens(told.today));
  at("cost-today").textContent = dollars(told.today.cost_usd);
  at("tokens-month").textContent = number(tokens(told.month));
  at("cost-month").textContent = dollars(told.month.cost_usd);
  const columns = told.days.map((day) => ({
    title: `${day.date}: ${number(tokens(day))} tokens, ${number(day.requests)} requests, ${dollars(day.cost_usd)}`,
    values: [day.prompt_tokens, day.completion_tokens],
  }));
  const most = stack(at("chart"), columns, ["first", "second"]);
  at("most").textContent = most >= 1 ? `peak ${number(most)}` : "no data yet";
  at("oldest").textContent = told.days[0].date;
  fill(at("numbers"), [
    row("today", told.today), row("this month", told.month),
    row("today, this key", told.key.today), row("this month, this key", told.key.month),
  ]);
}

const row = (name, of) => [[name, "name"], [number(of.requests), "n wide"], [number(of.prompt_tokens), "n"], [number(of.completion_tokens), "n"], [dollars(of.cost_usd), "n"]];
