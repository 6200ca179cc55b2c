// The status page: asks /status and /history every two seconds, and shows what they say.
"use strict";

const PERIOD_MS = 2000;
// A proxy answers within milliseconds; one that does not is told about.
const PATIENCE_MS = 8000;

const find = (id) => document.getElementById(id);
const cards = new Map();
let seen = {pid: 0, next: 0, length: 300};
// All samples that are kept: a column of lags, columns by source, and the places of reloads.
const kept = {lag: [], sources: new Map(), marks: []};

// -- texts ----------------------------------------------------------------------------------------

/** Three digits, without zeros that say nothing. */
const short = (value, digits = 3) => String(Number(value.toPrecision(digits)));

function number(value) {
  if (value >= 1e6) return `${short(value / 1e6)} M`;
  if (value >= 1e4) return `${short(value / 1e3)} k`;
  return value >= 100 || Number.isInteger(value) ? Math.round(value).toLocaleString("en") : short(value, 2);
}

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let power = 0;
  while (value >= 1024 && power < units.length - 1) {
    value /= 1024;
    power += 1;
  }
  return `${value < 100 ? short(value) : Math.round(value)} ${units[power]}`;
}

function span(seconds) {
  const whole = Math.floor(seconds);
  const [days, hours, minutes] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  return minutes ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}

function milliseconds(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 1000) return `${short(value / 1000)} s`;
  return `${value >= 100 ? Math.round(value) : short(value, 2)} ms`;
}

const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;

// -- pieces ---------------------------------------------------------------------------------------

function withUnit(text, unit) {
  return [text, ...(unit ? [make("small", "", ` ${unit}`)] : [])];
}

function tile(value, unit, label) {
  return make("div", "tile", "", make("b", "", "", ...withUnit(value, unit)), make("span", "", label));
}

function facts(entries) {
  const pairs = entries.map(([name, value]) => make("div", "", "", make("dt", "", name), make("dd", "", value)));
  return make("dl", "facts", "", ...pairs);
}

function pill(text, kind) {
  return make("span", `pill small ${kind}`, text);
}

/** The mean of the last few samples: a single second jumps about. */
function recent(column, count = 5) {
  const values = (column ?? []).slice(-count).filter((value) => value !== null);
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
}

// -- sources --------------------------------------------------------------------------------------

class Card {
  constructor(source) {
    this.hasRequests = source.type !== "Tcp";
    this.head = make("div", "head");
    this.chain = make("span", "steps");
    this.used = make("span");
    this.meter = make("i");
    const use = make("span", "use", "", this.used, make("span", "meter", "", this.meter));
    this.sub = make("p", "chain", "", this.chain, use);
    this.facts = make("div");
    if (this.hasRequests) {
      this.rate = new Chart("requests per second", [{className: "rate", hasArea: true, label: ""}], number, seen.length);
      this.second = new Chart("latency of a run of the chain", [
        {className: "slow", label: "p99"}, {className: "mid", label: "p50"},
      ], milliseconds, seen.length);
    } else {
      const lines = [{className: "rate", hasArea: true, label: ""}];
      this.rate = new Chart("bytes per second from clients", lines, bytes, seen.length, 1024);
      this.second = new Chart("bytes per second to clients", lines, bytes, seen.length, 1024);
    }
    this.element = make(
      "article", "card", "", this.head, this.sub,
      make("div", "charts", "", this.rate.element, this.second.element), this.facts);
  }

  show(source, chain) {
    const isOpen = source.listener === "accepting";
    this.head.replaceChildren(
      make("h3", "", source.name), make("span", "quiet", `${source.type} on ${source.address}`),
      pill(source.listener, isOpen ? "good" : "bad"));
    const steps = chain ? chain.transforms.map((step) => step.type).join(" → ") : "";
    this.chain.textContent = steps;
    const used = source.sessions / Math.max(1, source.connection_limit);
    this.used.textContent = `${number(source.sessions)} of ${plural(source.connection_limit, "session")}`;
    this.meter.style.width = `${Math.min(100, used * 100)}%`;
    const columns = kept.sources.get(source.name) ?? {};
    if (this.hasRequests) this.showRequests(columns);
    else this.showBytes(columns);
    this.showFacts(source, chain);
  }

  showRequests(columns) {
    const rate = recent(columns.requests_per_s, 3) ?? 0;
    this.rate.draw([columns.requests_per_s ?? []], kept.marks, withUnit(number(rate), "requests/s"));
    const slow = recent(columns.p99_ms);
    this.second.draw(
      [columns.p99_ms ?? [], columns.p50_ms ?? []], kept.marks,
      slow === null ? withUnit("–", "no requests") : withUnit(milliseconds(slow), "latency, p99"));
  }

  showBytes(columns) {
    const [received, sent] = [columns.received_per_s ?? [], columns.sent_per_s ?? []];
    this.rate.draw([received], kept.marks, withUnit(bytes(recent(received, 3) ?? 0), "/s in"));
    this.second.draw([sent], kept.marks, withUnit(bytes(recent(sent, 3) ?? 0), "/s out"));
  }

  showFacts(source, chain) {
    const states = source.session_states;
    const busy = Object.entries(states).filter(([name, count]) => count && name !== "idle");
    const entries = busy.map(([name, count]) => [name, number(count)]);
    if (this.hasRequests) entries.push(["requests", number(source.requests)]);
    entries.push(["in", bytes(source.bytes_received)], ["out", bytes(source.bytes_sent)]);
    entries.push(["opened", number(source.opened)]);
    const ended = Object.entries(source.ended).map(([reason, count]) => `${number(count)} ${reason}`);
    if (ended.length) entries.push(["ended", ended.join(", ")]);
    if (chain?.failures) entries.push(["failures", number(chain.failures)]);
    if (source.protocol_errors) entries.push(["protocol errors", number(source.protocol_errors)]);
    this.facts.replaceChildren(facts(entries));
  }
}

function showSources(status) {
  const chains = new Map(status.chains.map((chain) => [chain.name, chain]));
  const names = new Set(status.sources.map((source) => source.name));
  for (const [name, card] of cards) {
    if (!names.has(name)) {
      card.element.remove();
      cards.delete(name);
    }
  }
  for (const source of status.sources) {
    let card = cards.get(source.name);
    if (!card || card.hasRequests !== (source.type !== "Tcp")) {
      card?.element.remove();
      card = new Card(source);
      cards.set(source.name, card);
      find("sources").append(card.element);
    }
    card.show(source, chains.get(source.name));
  }
}

// -- the rest -------------------------------------------------------------------------------------

function showHeader(status) {
  find("version").textContent = status.version;
  find("process").textContent = `up ${span(status.uptime_s)}, process ${status.pid}, Python ${status.python}, `
    + plural(status.descriptors, "descriptor");
  const state = find("state");
  state.textContent = status.ready ? "ready" : status.state === "serving" ? "not ready" : status.state;
  state.className = `pill ${status.ready ? "good" : "bad"}`;
  document.title = `${status.ready ? "" : "! "}shotover-gevent ${status.version}`;
  say(status.obstacles.join("\n"));
}

function say(text) {
  find("notice").textContent = text;
  find("notice").hidden = !text;
}

function showTiles(status) {
  const sum = (name) => status.sources.reduce((total, source) => {
    return total + (recent(kept.sources.get(source.name)?.[name], 3) ?? 0);
  }, 0);
  const sessions = status.sources.reduce((total, source) => total + source.sessions, 0);
  const lag = Math.max(0, ...kept.lag.slice(-60).filter((value) => value !== null));
  find("tiles").replaceChildren(
    tile(number(sum("requests_per_s")), "/s", "requests"),
    tile(number(sessions), "", sessions === 1 ? "session" : "sessions"),
    tile(bytes(sum("received_per_s")), "/s", "from clients"),
    tile(bytes(sum("sent_per_s")), "/s", "to clients"),
    tile(milliseconds(lag), "", "worst lag in a minute"),
    tile(bytes(status.memory_bytes), "", "memory"));
}

const UPSTREAM_KINDS = {ok: "good", failing: "bad", unused: ""};

function showUpstreams(status) {
  const rows = status.upstreams.map((each) => {
    const row = make(
      "div", "row", "", make("b", "", each.address), make("span", "quiet", `${each.transform} of ${each.chain}`),
      pill(each.state === "unused" ? "not used yet" : each.state, UPSTREAM_KINDS[each.state] ?? ""),
      make("span", "wide quiet", `${plural(each.connections, "connection")} open, `
        + `${number(each.connects)} made, ${number(each.failures)} failed`));
    if (each.failure) {
      row.append(make("span", "wide bad", `${span(each.failed_s_ago)} ago: ${each.failure}`));
    }
    return row;
  });
  const nothing = make("div", "row", "", make("span", "quiet", "no chain connects to a database"));
  find("upstreams").replaceChildren(...(rows.length ? rows : [nothing]));
}

function showReload(status) {
  const reload = status.last_reload;
  if (!reload) {
    find("reload").replaceChildren(
      make("div", "row", "", make("span", "quiet", "this process has not seen one")));
    return;
  }
  const isOk = reload.result === "ok";
  const ago = span(Math.max(0, Date.now() / 1000 - reload.ended_at));
  const what = reload.role === "successor" ? "took over" : "asked to give way";
  const row = make(
    "div", "row", "", make("b", "", `${ago} ago`),
    make("span", "quiet", reload.predecessor_pid ? `${what} from process ${reload.predecessor_pid}` : what),
    pill(reload.result, isOk ? "good" : "bad"));
  if (reload.reason) row.append(make("span", "wide bad", reload.reason));
  const entries = [["moved", number(reload.moved)], ["longest pause", milliseconds(reload.longest_pause_ms)]];
  for (const [reason, count] of Object.entries(reload.kept)) entries.push([`stayed: ${reason}`, number(count)]);
  for (const [name, count] of Object.entries(reload.listeners ?? {})) {
    if (count) entries.push([`listeners ${name}`, number(count)]);
  }
  find("reload").replaceChildren(row, facts(entries));
}

// -- asking ---------------------------------------------------------------------------------------

async function ask(path) {
  const response = await fetch(path, {signal: AbortSignal.timeout(PATIENCE_MS), cache: "no-store"});
  if (!response.ok) throw new Error(`${path} answers ${response.status}`);
  return response.json();
}

/** Add samples; those of another process follow those of the one before, with a mark between. */
function keep(history) {
  const isOther = history.pid !== seen.pid;
  if (isOther && seen.pid) kept.marks.push(kept.lag.length);
  seen = {pid: history.pid, next: history.next, length: history.length};
  const before = kept.lag.length;
  const count = history.lag_ms.length;
  kept.lag.push(...history.lag_ms);
  for (const [name, columns] of Object.entries(history.sources)) {
    const mine = kept.sources.get(name) ?? {};
    for (const [column, values] of Object.entries(columns)) {
      mine[column] ??= Array(before).fill(null);
      mine[column].push(...values);
    }
    kept.sources.set(name, mine);
  }
  for (const [name, columns] of kept.sources) {
    if (name in history.sources) continue;
    for (const column of Object.values(columns)) column.push(...Array(count).fill(null));
  }
  trim(Math.max(0, kept.lag.length - history.length));
}

function trim(extra) {
  if (!extra) return;
  kept.lag.splice(0, extra);
  for (const columns of kept.sources.values()) {
    for (const column of Object.values(columns)) column.splice(0, extra);
  }
  kept.marks = kept.marks.map((place) => place - extra).filter((place) => place >= 0);
}

async function refresh() {
  const status = await ask("/status");
  // Another process counts its samples anew.
  const since = status.pid === seen.pid ? seen.next : 0;
  keep(await ask(`/history?since=${since}`));
  showHeader(status);
  showSources(status);
  showTiles(status);
  showUpstreams(status);
  showReload(status);
  document.body.dataset.refreshed = String(Date.now());
}

async function run() {
  try {
    if (!document.hidden) await refresh();
  } catch (error) {
    find("state").textContent = "not reached";
    find("state").className = "pill bad";
    say(`The proxy does not answer: ${error.message}. This page goes on asking.`);
  }
  setTimeout(run, PERIOD_MS);
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) refresh().catch(() => {});
});
run();
