// The page: asks its own server for small documents, and changes what is on screen in place.
"use strict";
const $ = (id) => document.getElementById(id);
const state = {key: null, tick: null, last: null, rows: new Map(), newest: 0, oldest: null, wide: new Map()};

const clock = (at) => at == null ? "–" : new Date(at * 1000).toLocaleTimeString();
const whole = (value) => value == null ? "–" : String(Math.round(value));
const percent = (value) => value == null ? "–" : (100 * value).toFixed(1) + " %";

async function ask(path, query = {}) {
  const words = new URLSearchParams(query);
  if (state.tick != null) words.set("tick", state.tick);
  const answer = await fetch(`api/${path}?${words}`, {cache: "no-store"});
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.error || told.message || `HTTP ${answer.status}`);
  return told;
}

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text != null) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function setText(node, text) { if (node.textContent !== text) node.textContent = text; }

function showState(told) {
  const blind = told.roles.filter((role) => role.blind).length;
  const short = told.roles.filter((role) => role.shortage > 0).length;
  const parts = [state.tick == null ? "live" : "replay", clock(told.at), `${told.roles.length} roles`];
  if (told.failure) parts.push(`cannot see: ${told.failure}`);
  if (blind) parts.push(`${blind} blind`);
  if (short) parts.push(`${short} short of replicas`);
  if (told.plan) parts.push(`plan ${told.plan.status}`);
  setText($("state"), told.at == null ? "Waiting for the first tick" : parts.join(" · "));
  $("state").classList.toggle("warn", Boolean(told.failure || blind || short));
}

function showRoles(told) {
  const body = $("roles");
  const wanted = $("filter").value.toLowerCase();
  const seen = new Set();
  for (const role of told.roles) {
    seen.add(role.key);
    let row = state.rows.get(role.key);
    if (!row) {
      row = element("tr");
      const cell = element("td");
      const button = element("button", role.key, {type: "button"});
      button.addEventListener("click", () => choose(role.key));
      cell.append(button);
      row.append(cell, ...[0, 1, 2, 3, 4].map(() => element("td")));
      state.rows.set(role.key, row);
      body.append(row);
    }
    const shown = [Charts.short(role.load), whole(role.desired), whole(role.starting), whole(role.ready),
      role.cost_per_million == null ? "–" : role.cost_per_million.toFixed(2)];
    shown.forEach((text, at) => setText(row.cells[at + 1], text));
    row.classList.toggle("warn", Boolean(role.blind || role.shortage > 0));
    row.setAttribute("aria-selected", String(role.key === state.key));
    row.hidden = wanted !== "" && !role.key.toLowerCase().includes(wanted);
  }
  for (const [key, row] of state.rows) if (!seen.has(key)) { row.remove(); state.rows.delete(key); }
}

function showMap(told) {
  const map = $("map");
  for (const role of told.roles) {
    let node = state.wide.get(role.key);
    if (!node) {
      node = element("div", null, {class: "pool", role: "listitem"});
      node.append(element("b", role.key), element("div", null, {class: "cells", "aria-hidden": "true"}));
      state.wide.set(role.key, node);
      map.append(node);
    }
    const heats = role.engines.length ? role.engines.map((engine) => engine[1]) : Array(Math.min(role.ready || 0, 400)).fill(role.kv_usage);
    const cells = node.lastChild;
    const total = heats.length + Math.min(role.starting || 0, 100);
    while (cells.children.length < total) cells.append(element("span", null, {class: "cell"}));
    while (cells.children.length > total) cells.lastChild.remove();
    [...cells.children].forEach((cell, at) => {
      const starting = at >= heats.length;
      cell.classList.toggle("starting", starting);
      const style = starting ? "transparent" : `rgba(var(--heat), ${(0.08 + 0.92 * Math.min(1, heats[at] || 0)).toFixed(2)})`;
      if (cell.style.backgroundColor !== style) cell.style.backgroundColor = style;
    });
    const label = `${role.key}: ${whole(role.ready)} ready, ${whole(role.starting)} starting, KV cache ${percent(role.kv_usage)} full`;
    if (node.getAttribute("aria-label") !== label) { node.setAttribute("aria-label", label); node.title = label; }
    node.hidden = state.rows.get(role.key).hidden;
  }
  for (const [key, node] of state.wide) if (!state.rows.has(key)) { node.remove(); state.wide.delete(key); }
}

function showDomains(told) {
  const domains = told.domains || [];
  $("domains-part").hidden = !domains.length;
  $("domains").replaceChildren(...domains.map((one) => {
    const said = `${one.name}, ${one.accelerator}: ${one.gpus} GPUs on ${one.nodes} nodes, ${one.serving} serving, ${one.other} other, ${one.free} free`;
    const item = element("div", null, {role: "listitem", "aria-label": said, title: said, class: "domain"});
    const bar = element("div", null, {class: "bar", "aria-hidden": "true"});
    for (const part of ["serving", "other", "free"]) {
      const piece = element("span", null, {class: part});
      piece.style.flexGrow = one[part];
      bar.append(piece);
    }
    item.append(element("span", `${one.name} ${one.serving}/${one.other}/${one.free}`), bar);
    return item;
  }));
}

function fill(body, rows, empty) {
  body.replaceChildren(...(rows.length ? rows : [[empty]]).map((cells) => {
    const row = element("tr");
    cells.forEach((text) => row.append(element("td", text, cells.length === 1 ? {colspan: 6} : {})));
    return row;
  }));
}

function showRole(told) {
  const role = told.roles.find((one) => one.key === state.key);
  if (!role) return;
  setText($("role-title"), role.key);
  setText($("why"), role.brief || "");
  const coverage = role.foreseen.filter((one) => one.coverage != null)
    .map((one) => `${one.tier} ${percent(one.coverage)} of ${percent(one.quantile)}`).join(", ") || "–";
  const figures = {Load: `${Charts.short(role.load)} tok/s`, Forecast: `${Charts.short(role.forecast)} tok/s`,
    "Velocity of a replica": `${Charts.short(role.velocity)} tok/s`, Known: role.basis || "–", Binds: role.binds || "–",
    "KV cache": percent(role.kv_usage), Running: whole(role.running), Waiting: whole(role.waiting), GPUs: whole(role.gpus),
    "Cost per million output tokens": role.cost_per_million == null ? "–" : role.cost_per_million.toFixed(2),
    "Bounds that held": coverage};
  const list = $("figures");
  if (list.children.length !== Object.keys(figures).length) {
    list.replaceChildren(...Object.keys(figures).map((name) => {
      const group = element("div");
      group.append(element("dt", name), element("dd"));
      return group;
    }));
  }
  Object.values(figures).forEach((text, at) => setText(list.children[at].lastChild, text));
  fill($("ladder"), role.flights.map((one) => [one.tier, `${one.replicas} replicas`,
    `${clock(one.lands_at)} (${Math.max(0, Math.round(one.lands_at - told.at))} s)`]), "nothing in flight");
  fill($("stocks"), (told.stocks || []).map((one) => [one.accelerator, whole(one.prepared), whole(one.preemptible), whole(one.lent), whole(one.coming),
    whole(one.to_buy)]), "supply is not told");
  $("loans-part").hidden = told.loans == null;
  fill($("loans"), (told.loans || []).map((one) => [one.key, `${one.gpus} ${one.accelerator}`, clock(one.since),
    one.until == null ? "not yet" : clock(one.until)]), "training has lent nothing");
}

async function showSeries(told) {
  if (!state.key) return;
  const key = state.key;
  const s = await ask("series", {key, span: $("span").value});
  if (key !== state.key) return;
  const role = told.roles.find((one) => one.key === key);
  const fan = (role && role.foreseen) || [];
  const drawn = fanned(s, fan, told.at);
  Charts.draw("load-chart", drawn.series, drawn.data);
  Charts.draw("count-chart", [
    {label: "wanted", colour: "warn", stepped: true, dash: [5, 3]},
    {label: "ready + starting", colour: "quiet", stepped: true},
    {label: "ready", colour: "main", stepped: true, fill: true},
  ], [s.t, s.desired, s.ready.map((ready, at) => ready == null ? null : ready + (s.starting[at] || 0)), s.ready]);
  const loads = s.load.filter((value) => value != null);
  const readies = s.ready.filter((value) => value != null);
  setText($("load-text"), loads.length ? `Load between ${Charts.short(Math.min(...loads))} and ${Charts.short(Math.max(...loads))} tokens/s, `
    + `now ${Charts.short(loads[loads.length - 1])}.` : "No load was seen in this span.");
  setText($("count-text"), readies.length ? `Between ${Math.min(...readies)} and ${Math.max(...readies)} replicas ready, now `
    + `${readies[readies.length - 1]}.` : "Nobody told how many replicas are ready.");
}

// The upper bounds at the tiers' lead times, drawn beyond the present: the further ahead, the wider.
function fanned(s, fan, now) {
  const series = [{label: "load", colour: "main", fill: true}, {label: "planned for", colour: "warn", dash: [5, 3]}];
  const data = [[...s.t], [...s.load], [...s.forecast]];
  const ahead = [...new Map(fan.filter((one) => one.lead_s > 0).map((one) => [one.lead_s, one])).values()]
    .sort((a, b) => a.lead_s - b.lead_s);
  if (ahead.length && s.t.length) {
    data[0].push(...ahead.map((one) => now + one.lead_s));
    data[1].push(...ahead.map(() => null));
    data[2].push(...ahead.map(() => null));
    series.push({label: "upper bound ahead", colour: "quiet", band: true, width: 2});
    const last = s.load[s.load.length - 1];
    data.push([...s.t.map((_t, at) => at === s.t.length - 1 ? last : null), ...ahead.map((one) => one.bound)]);
  }
  return {series, data};
}

function decisionEntry(one) {
  const item = element("li", null, {value: one.id});
  const details = element("details");
  const summary = element("summary", `${clock(one.at)} ${one.key}: ${one.before ?? "–"} → ${one.desired}`);
  details.append(summary, element("p", one.brief, {class: "quiet"}));
  details.addEventListener("toggle", async () => {
    if (!details.open || details.dataset.full) return;
    details.dataset.full = "yes";
    try {
      const full = await ask("decision", {id: one.id});
      details.append(element("p", full.sentence));
      const plan = full.plan || {};
      const alternatives = plan.next_best ? `Next best: ${plan.next_best}` + (plan.next_best_cost == null ? "" : ` at ${plan.next_best_cost.toFixed(2)}`
        + ` instead of ${Number(plan.cost).toFixed(2)}`) : "No alternative was priced.";
      details.append(element("p", alternatives));
      if ((plan.binding || []).length) details.append(element("p", `Binding: ${plan.binding.join("; ")}`));
      for (const take of full.role.takes || []) {
        details.append(element("p", `From ${take.tier}: ${take.replicas} replicas, ${Math.round(take.lead_s)} s`));
      }
      for (const note of plan.notes || []) details.append(element("p", note, {class: "quiet"}));
    } catch (error) {
      delete details.dataset.full;
      details.append(element("p", error.message, {class: "warn"}));
    }
  });
  item.append(details);
  return item;
}

const MOST_LISTED = 400;

async function showDecisions(older = false) {
  const query = {limit: 50};
  if ($("only").checked && state.key) query.key = state.key;
  if (older && state.oldest != null) query.before = state.oldest;
  const {decisions} = await ask("decisions", query);
  const list = $("decisions");
  if (older) list.append(...decisions.map(decisionEntry));
  else for (const one of [...decisions].reverse()) if (one.id > state.newest) list.prepend(decisionEntry(one));
  if (decisions.length) {
    state.newest = Math.max(state.newest, decisions[0].id);
    state.oldest = Math.min(state.oldest ?? Infinity, decisions[decisions.length - 1].id);
  }
  while (list.children.length > MOST_LISTED) list.lastChild.remove();
  if (list.lastChild) state.oldest = list.lastChild.value;
  $("older").hidden = older && decisions.length < 50;
}

function forget() { state.newest = 0; state.oldest = null; $("decisions").replaceChildren(); $("older").hidden = false; }

async function choose(key) {
  state.key = key;
  if ($("only").checked) forget();
  await refresh(true);
  $("role-title").focus({preventScroll: false});
}

let running = false;
async function refresh(force = false) {
  if (running && !force) return;
  running = true;
  try {
    const told = await ask("overview");
    const changed = force || told.at !== state.last;
    state.last = told.at;
    if (!state.key && told.roles.length) state.key = told.roles[0].key;
    showState(told);
    if (changed && told.roles.length) {
      showRoles(told);
      showMap(told);
      showDomains(told);
      showRole(told);
      await Promise.all([showSeries(told), showDecisions()]);
    }
    document.body.dataset.drawn = "yes";
  } catch (error) {
    setText($("state"), `No answer: ${error.message}`);
    $("state").classList.add("warn");
  } finally { running = false; }
}

async function seek(tick) {
  state.tick = tick;
  forget();
  $("live").hidden = tick == null || !state.span.live;
  await refresh(true);
  setText($("tick-at"), tick == null ? "live" : `${clock(state.last)} (tick ${tick} of ${state.span.ticks - 1})`);
}

async function prepareReplay() {
  const span = await ask("replay");
  state.span = span;
  $("replay").hidden = !span.ticks;
  $("tick").max = Math.max(0, span.ticks - 1);
  if (!span.live && span.ticks) { $("tick").value = span.ticks - 1; await seek(span.ticks - 1); }
  else setText($("tick-at"), span.live ? "live" : "");
  $("live").hidden = true;
}

async function whatIf(event) {
  event.preventDefault();
  const form = new FormData($("whatif"));
  setText($("whatif-text"), "Simulating…");
  const button = $("whatif").querySelector("button");
  button.disabled = true;
  try {
    const told = await ask("whatif", {key: state.key, growth: form.get("growth"), start_scale: form.get("start_scale"), hours: form.get("hours")});
    const line = (name, one) => `${name}: ${percent(one.slo_attainment)} within SLO, ${one.gpu_hours.toFixed(1)} GPU-hours, `
      + `cost ${one.total_cost.toFixed(2)}, ${one.peak_replicas} replicas at the peak.`;
    setText($("whatif-text"), `${line("As now", told.now)} ${line("What if", told.then)}`);
    $("whatif-chart").hidden = false;
    Charts.draw("whatif-chart", [{label: "needed, what if", colour: "quiet", stepped: true, fill: true},
      {label: "ready, what if", colour: "warn", stepped: true}, {label: "ready, as now", colour: "main", stepped: true}],
      [told.then.t, told.then.needed, told.then.ready, told.now.ready], true);
  } catch (error) { setText($("whatif-text"), error.message); }
  finally { button.disabled = false; }
}

function theme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  $("theme").setAttribute("aria-pressed", String(dark));
  try { localStorage.setItem("theme", dark ? "dark" : "light"); } catch { /* private windows keep nothing */ }
  Charts.again();
}

function begin() {
  let kept = null;
  try { kept = localStorage.getItem("theme"); } catch { /* likewise */ }
  theme(kept ? kept === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  $("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme !== "dark"));
  $("span").addEventListener("change", () => refresh(true));
  $("filter").addEventListener("input", () => refresh(true));
  $("only").addEventListener("change", () => { forget(); refresh(true); });
  $("older").addEventListener("click", () => showDecisions(true));
  $("whatif").addEventListener("submit", whatIf);
  $("live").addEventListener("click", () => seek(null));
  let waiting = 0;
  $("tick").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => seek(Number($("tick").value)), 80); });
  prepareReplay().catch(() => { $("replay").hidden = true; }).finally(() => refresh());
  setInterval(() => { if (state.tick == null && !document.hidden) refresh(); }, 1000);
}
begin();
