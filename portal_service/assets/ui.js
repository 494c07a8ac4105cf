// The operator's page: polls /ui/data every two seconds while it is visible.
import { amount, bar, dollars, duration, element, fill, number, stack, words } from "./format.js";

const PERIOD_MS = 2000;
const CURRENT_STEPS = 3; // "a second" in the tiles is the mean of the last three steps, 15 s

const at = (id) => document.getElementById(id);
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString([], { hour12: false });

async function refresh() {
  try {
    const answer = await fetch("/ui/data", { cache: "no-store" });
    if (!answer.ok) throw new Error(`the gateway answered ${answer.status}`);
    show(await answer.json());
  } catch (error) {
    at("updated").textContent = `update failed: ${error.message}; retrying`;
  }
}

function show(data) {
  at("status").textContent = data.status;
  at("status").className = `badge ${data.status === "healthy" ? "good" : "bad"}`;
  at("updated").textContent = data.behind ? "the request log can't be read" : `${clock(data.time)} · ${data.version}`;
  traffic(data.traffic, data.in_flight);
  models(data.models);
  users(data.users);
  limits(data.limits);
  errors(data.errors);
}

function traffic(steps, inFlight) {
  const now = steps.slice(-CURRENT_STEPS);
  const mean = (field) => now.reduce((sum, step) => sum + step[field], 0) / Math.max(1, now.length);
  const all = mean("requests");
  at("requests").textContent = number(all);
  at("tokens").textContent = number(mean("tokens"));
  at("in-flight").textContent = number(inFlight);
  at("trouble").textContent = all ? `${number((100 * (mean("refused") + mean("failed"))) / all)} %` : "0 %";
  if (!steps.length) return;
  const columns = steps.map((step) => ({
    title: `${clock(step.time)}: ${number(step.requests)} a second, ${number(step.refused)} refused, ${number(step.failed)} failed`,
    values: [step.requests - step.refused - step.failed, step.refused, step.failed],
  }));
  const tokens = steps.map((step) => ({ title: `${clock(step.time)}: ${number(step.tokens)} a second`, values: [step.tokens] }));
  at("requests-most").textContent = most(stack(at("requests-chart"), columns, ["first", "second", "third"]));
  at("tokens-most").textContent = most(stack(at("tokens-chart"), tokens, ["first"]));
}

const most = (value) => (value < 0.01 ? "no data yet" : `peak ${number(value)}`);

function models(found) {
  fill(at("models"), found.map((model) => [
    [model.name],
    [servers(model.backends)],
    [number(model.in_flight), "n"],
    [number(model.requests), "n"],
    [number(model.failed), model.failed ? "n wide bad" : "n wide"],
    [number(model.tokens_per_s), "n wide"],
    [model.ttft_ms === null ? "–" : `${number(model.ttft_ms)} ms`, "n wide"],
  ]), "no models configured");
}

function servers(backends) {
  const good = backends.filter((each) => each.status === "healthy").length;
  const text = good === backends.length ? `● ${good} healthy` : `▲ ${good} of ${backends.length} healthy`;
  const title = backends.map((each) => `${each.url} ${each.status}`).join("\n");
  return backends.length ? element("span", { class: good === backends.length ? "good" : "bad", title }, text) : "–";
}

function users(found) {
  const top = Math.max(...found.map((user) => user.tokens), 1);
  fill(at("users"), found.slice(0, 10).map((user) => [
    [named(user.user, user.tokens / top)],
    [user.team || "–", "wide"],
    [number(user.requests), "n"],
    [number(user.tokens), "n"],
    [dollars(user.cost_usd), "n"],
  ]), "no users yet");
}

function named(name, share) {
  const shown = element("div", {}, name, bar(share));
  shown.querySelector("i").className = "";
  return shown;
}

function limits(found) {
  const shown = found.slice(0, 12).map((each) => element("div", {},
    element("div", { class: "row" },
      element("span", {}, `${each.holder} · `, element("span", { class: "quiet" }, words(each.name))),
      element("span", { class: "quiet" }, `${amount(each.name, each.used)} of ${amount(each.name, each.limit)}`)),
    bar(each.share),
    element("span", { class: "quiet" }, rest(each))));
  const none = element("p", { class: "quiet" }, "no limit is more than half used");
  at("limits").className = shown.length ? "limits" : "";
  at("limits").replaceChildren(...(shown.length ? shown : [none]));
}

function rest(limit) {
  const when = limit.reset_s === null ? "" : `, resets in ${duration(limit.reset_s)}`;
  return `${Math.round(limit.share * 100)} % used${when}${limit.shadow ? " (shadow: not enforced)" : ""}`;
}

function errors(found) {
  fill(at("errors"), found.map((each) => [
    [clock(each.last), "k wide"],
    [each.status, each.status >= 500 ? "k bad" : "k"],
    [why(each)],
    [each.model || "–", "wide"],
    [each.user || "–", "user"],
    [number(each.times), "n"],
  ]), "none");
}

const why = (each) => [each.code || "from the model server", each.limited_by && `(${words(each.limited_by)})`].filter(Boolean).join(" ");

async function keepOn() {
  if (!document.hidden) await refresh();
  setTimeout(keepOn, PERIOD_MS);
}

keepOn();
