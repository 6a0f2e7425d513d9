/* The page of a run, and the list of runs. What is said comes from the server in words; here it is put in place, drawn and followed. */
"use strict";

const $ = (id) => document.getElementById(id);
const wait = (ms) => new Promise((done) => setTimeout(done, ms));

async function ask(path, options) {
  const r = await fetch(path, { headers: { Accept: "application/json" }, ...options });
  const found = r.headers.get("content-type")?.includes("json") ? await r.json() : {};
  if (!r.ok) throw new Error(found.error || `${r.status} ${r.statusText}`);
  return found;
}

class Page {
  constructor(data, proof) {
    Object.assign(this, { run: data.run, sites: data.sites, samples: data.samples, last: data.last_event, proof, span: null, words: {}, heard: Date.now() });
    this.base = `/api/v1/runs/${encodeURIComponent(data.run)}`;
    const q = new URLSearchParams(location.search);
    const at = (name) => (q.get(name) ? Date.parse(q.get(name)) / 1000 || Number(q.get(name)) || null : null);
    this.view = at("from") && at("to") ? [at("from"), at("to")] : null;
    this.before = [];
    this.tokens = null;
    this.log = q.has("log");
    this.charts = {};
    for (const host of document.querySelectorAll("[data-chart]")) {
      const [kind, i] = host.dataset.chart.split(" ");
      const title = host.closest("figure, section").getAttribute("aria-labelledby");
      const label = `${$(title)?.textContent || kind}${kind === "lane" ? ": signal and states" : ""}`;
      const made = { lane: Lane, loss: Loss, emissions: Emissions }[kind] || Heat;
      this.charts[host.dataset.chart] = new made(this, host, kind === "loss" ? "tokens" : "t", label);
      if (kind === "lane") this.charts[host.dataset.chart].place = Number(i);
    }
    this.controls();
    this.refresh();
    this.follow();
    document.addEventListener("visibilitychange", () => !document.hidden && this.again && this.refresh());
    this.rows = document.querySelector("#event-rows tbody");
    this.sampled();
    if (at("at")) this.pick(at("at"));
    document.documentElement.dataset.ready = "shell";
  }

  /* -- what is shown ------------------------------------------------------------------------------------- */

  range(over) { return over === "tokens" ? this.tokens : this.view || this.span || [0, 1]; }
  zoom(over, a, b) {
    if (over === "t" && b - a < 1) return;
    if (over === "t") this.before.push(this.view);
    this.show(over, over === "t" ? [a, b] : [Math.max(0, Math.floor(a)), Math.ceil(b)]);
  }
  zoomOut(over) { this.show(over, (over === "t" && this.before.pop()) || null); }
  show(over, part) {
    if (over === "t") { this.view = part; this.looked(); } else { this.tokens = part; this.loadLoss(); }
  }

  /* Another time is looked at: at once with what is here, then with what the server has of it. */
  looked() {
    for (const c of Object.values(this.charts)) if (c.over === "t" && c.plot) c.rescale();
    clearTimeout(this.later);
    this.later = setTimeout(() => this.refresh(), 120);
    this.address();
  }

  address(at) {
    const q = new URLSearchParams(location.search);
    for (const k of ["from", "to", "log"]) q.delete(k);
    if (this.view) { q.set("from", utc(this.view[0]).slice(0, 19) + "Z"); q.set("to", utc(this.view[1]).slice(0, 19) + "Z"); }
    if (this.log) q.set("log", "1");
    if (at !== undefined) { if (at == null) q.delete("at"); else q.set("at", utc(at).slice(0, 19) + "Z"); }
    history.replaceState(null, "", `${location.pathname}${q.size ? `?${q}` : ""}${location.hash}`);
    const shown = this.range("t");
    $("shown").textContent = shown[1] > 1 ? `${clock(shown[0])} to ${clock(shown[1])} UTC` : "";
  }

  query(more) {
    const q = new URLSearchParams(more);
    if (this.view) { q.set("from", this.view[0].toFixed(0)); q.set("to", this.view[1].toFixed(0)); }
    return q;
  }

  async refresh() {
    if (this.loading || (document.hidden && this.drawn)) { this.again = true; return; }
    this.loading = true;
    const jobs = [this.loadLanes(), this.loadEmissions(), this.loadRates(), this.loadLoss()];
    const failed = (await Promise.allSettled(jobs)).find((j) => j.status === "rejected");
    if (failed) this.trouble(failed.reason.message);
    [this.loading, this.drawn] = [false, Date.now()];
    document.documentElement.dataset.ready = "drawn";
    if (this.again) { this.again = false; this.refresh(); }
  }

  async loadLanes() {
    const width = document.querySelector("[data-chart^=lane]")?.clientWidth || 800;
    const found = await ask(`${this.base}/lanes?${this.query({ points: [200, 400, 800].find((n) => n >= width) || 1200 })}`);
    if (!this.view) this.span = [found.from, found.to];
    for (const lane of found.lanes) {
      const chart = this.charts[`lane ${this.sites.indexOf(lane.site)}`];
      if (chart && found.to > found.from) chart.show(lane, found.blocks);
    }
    this.strip(found);
    this.address();
  }

  /* The run's modes over the time shown. */
  strip(found) {
    const host = $("strip"), whole = found.to - found.from;
    if (!host || whole <= 0) return;
    host.replaceChildren(...found.mode.map(([a, b, w]) => {
      const part = document.createElement("i");
      part.className = `swatch ${found.modes[w]}`;
      part.style.left = `${((a - found.from) / whole) * 100}%`;
      part.style.width = `${((b - a) / whole) * 100}%`;
      return part;
    }));
  }

  async loadEmissions() {
    const found = await ask(`${this.base}/emissions?${this.query({ points: 600 })}`);
    if (!this.span && !this.view) this.span = [found.from, found.to];
    this.charts.emissions.show(found);
    clearTimeout(this.comparing);
    if (found.against_state === "loading") this.comparing = setTimeout(() => this.loadEmissions().then(() => this.sync()).catch(() => {}), 1500);
  }

  async loadRates() {
    const found = await ask(`${this.base}/rates?${this.query({ parts: phone() ? 60 : 140 })}`);
    if (!found.t.length) return;
    if (!this.span && !this.view) this.span = [found.from, found.to];
    this.charts.tokens.show(found, "tokens_per_s", (v) => `${short(v || 0, 3)}/s`);
    this.charts.stall.show(found, "stall_share", (v) => (v == null ? "–" : `${(v * 100).toFixed(1)} %`));
    this.charts.bytes.show(found, "bytes", (v) => (v == null ? "–" : `${short(v / 1e6, 3)} MB`));
  }

  async loadLoss() {
    const q = this.tokens ? `?from_tokens=${this.tokens[0]}&to_tokens=${this.tokens[1]}&points=600` : "";
    const found = await ask(`${this.base}/loss${q}`);
    this.charts.loss.show(found);
    const readout = this.charts.loss.readout;
    readout.textContent = found.read < 1 ? `Still loading: ${(found.read * 100).toFixed(0)} % of the training losses are read` : "";
    clearTimeout(this.reading);
    if (found.read < 1) this.reading = setTimeout(() => this.loadLoss().catch(() => {}), 300);
  }

  /* How things stood at an instant: the server says it, in words. */
  async pick(t, focus) {
    const box = $("moment"), r = await fetch(`/runs/${encodeURIComponent(this.run)}/moment?t=${Math.round(t)}`).catch(() => null);
    if (!r?.ok) return;
    box.innerHTML = await r.text();
    box.hidden = false;
    box.querySelector("button").onclick = () => { box.hidden = true; this.address(null); };
    this.address(Math.round(t));
    if (focus) box.focus();
  }

  /* -- words and what is new ------------------------------------------------------------------------------ */

  /* Words by id. Nothing is replaced that says the same, so that focus and screen readers stay where they are. */
  say(found) {
    if (found.error) { this.trouble(found.error); return; }
    if (found.words["w-shape"] !== $("w-shape").textContent) { location.reload(); return; }
    for (const [id, html] of Object.entries(found.words)) {
      if (this.words[id] === html) continue;
      const e = $(id);
      if (e && id !== "w-shape") e.innerHTML = html;
      this.words[id] = html;
    }
    [this.heard] = [Date.now(), this.connected(true)];
    for (const n of found.samples.filter((v) => !this.samples.includes(v))) for (const k of ["a", "b"]) $(`sample-${k}`)?.prepend(new Option(n));
    this.samples = found.samples;
    const moved = this.mark !== undefined && found.mark !== this.mark;
    this.mark = found.mark;
    // Figures follow at a distance: they cost more, and nobody sees a pixel in five seconds.
    if (moved && Date.now() - (this.drawn || 0) > 5000) this.refresh();
    else if (moved) { clearTimeout(this.soon); this.soon = setTimeout(() => this.refresh(), 5000); }
  }

  happened(e) {
    if (e.id <= this.last) return;
    this.last = e.id;
    const find = new FormData($("find"));
    if (find.get("search") || find.get("kind") || !this.rows) return;
    this.rows.prepend(this.row(e, true));
    while (this.rows.rows.length > 400) this.rows.lastElementChild.remove();
    document.documentElement.dataset.event = e.id;
  }

  row(e, fresh) {
    const r = document.createElement("tr");
    r.className = `${e.notable ? "" : "quiet"}${fresh ? " fresh" : ""}`;
    [[inWords(e.t_run), "t"], [e.site || "run"], [e.kind.replaceAll("_", " ")], [e.what]].forEach(([text, css]) => {
      const d = r.insertCell();
      if (css) d.className = css;
      d.textContent = text;
    });
    r.dataset.id = e.id;
    return r;
  }

  connected(well) {
    const box = $("connection");
    box.classList.toggle("lost", !well);
    if (!well) box.dataset.lost = `not connected since ${new Date(this.heard).toISOString().slice(11, 19)} UTC; trying again`;
    else delete box.dataset.lost;
  }

  trouble(text) { $("w-now").textContent = text; }
  /* Browsers allow six connections to an origin. Three pages at once hold a stream, the others and those behind ask again and again. */
  async follow() {
    setInterval(() => Date.now() - this.heard > 15000 && this.connected(false), 2000);
    for (;;) {
      let streamed = false;
      for (const i of navigator.locks && !document.hidden ? [0, 1, 2] : []) {
        await navigator.locks.request(`windfall-stream-${i}`, { ifAvailable: true }, async (lock) => {
          if (lock && !streamed) { streamed = true; await this.stream(); }
        });
        if (streamed) break;
      }
      if (!streamed || !this.told) await this.poll();
      await wait(streamed && this.told ? 300 : document.hidden ? 3000 : 1500);
    }
  }

  stream() {
    this.told = false;
    return new Promise((over) => {
      const source = new EventSource(`${this.base}/stream?after=${this.last}`);
      const end = () => { source.close(); document.removeEventListener("visibilitychange", hidden); over(); };
      const hidden = () => document.hidden && end();
      document.addEventListener("visibilitychange", hidden);
      source.addEventListener("words", (e) => { this.told = true; this.say(JSON.parse(e.data)); });
      source.addEventListener("happened", (e) => this.happened(JSON.parse(e.data)));
      source.addEventListener("missed", (e) => this.events(null, true));
      source.onerror = end;
    });
  }

  async poll() {
    try {
      const found = await this.sync();
      if (found.last_event > this.last) (await ask(`${this.base}/events?limit=50`)).events.reverse().forEach((e) => this.happened(e));
    } catch {
      this.connected(false);
    }
  }

  async sync() {
    const found = await ask(`/runs/${encodeURIComponent(this.run)}/words`);
    this.say(found);
    return found;
  }

  /* -- events ---------------------------------------------------------------------------------------------- */

  async events(before, anew) {
    const find = new FormData($("find")), older = $("older"), said = $("searched");
    const q = new URLSearchParams({ limit: 100 });
    if (find.get("search")) q.set("search", find.get("search"));
    if (find.get("kind")) q.set("kind", find.get("kind"));
    const round = (this.round = (this.round || 0) + (anew ? 1 : 0));
    if (anew) this.rows.replaceChildren();
    let found = 0, looked = 0;
    for (;;) {
      if (before) q.set("before", before);
      const page = await ask(`${this.base}/events?${q}`);
      if (round !== this.round) return;
      this.rows.append(...page.events.map((e) => this.row(e)));
      if (anew && page.events.length) this.last = Math.max(this.last, page.events[0].id);
      found += page.events.length;
      looked += page.looked_at;
      before = page.next_before;
      older.dataset.before = before ?? "";
      older.disabled = before == null;
      said.textContent = before == null ? `${found} more, and that is all` : q.get("search") ? `${found} found, ${looked.toLocaleString("en")} of ${page.total.toLocaleString("en")} looked through` : "";
      if (before == null || found >= 100) return;
    }
  }

  /* -- samples --------------------------------------------------------------------------------------------- */

  sampled() {
    for (const k of ["a", "b"]) {
      const choice = $(`sample-${k}`);
      if (!choice) continue;
      choice.onchange = () => this.sample(k);
      this.sample(k);
    }
  }

  async sample(k) {
    const s = await ask(`${this.base}/samples/${$(`sample-${k}`).value}`).catch((e) => ({ text: e.message, prompt: "" }));
    $(`text-${k}`).textContent = s.prompt + s.text;
    $(`bpb-${k}`).textContent = s.val_bpb == null ? "" : `${s.val_bpb.toFixed(3)} bits per byte`;
  }

  /* -- hands ------------------------------------------------------------------------------------------------ */

  controls() {
    document.querySelector(".tools").addEventListener("click", (e) => {
      const { span, do: what } = e.target.dataset;
      if (span) {
        const end = (this.span || this.range("t"))[1];
        this.before.push(this.view);
        this.show("t", span === "all" ? null : [end - Number(span), end]);
      } else if (what === "out") this.zoomOut("t");
      else if (what === "link") navigator.clipboard?.writeText(location.href).then(() => ($("shown").textContent = "copied"), () => ($("shown").textContent = location.href));
    });
    $("log").checked = this.log;
    $("log").onchange = (e) => { this.log = e.target.checked; this.address(); this.loadLoss(); };
    $("find").onsubmit = (e) => { e.preventDefault(); this.events(null, true); };
    $("older").onclick = () => this.events($("older").dataset.before, false);
    document.addEventListener("click", (e) => e.target.dataset?.ask && this.confirm(e.target.dataset));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTimeout(() => Object.values(this.charts).forEach((c) => { c.plot?.redraw(); c.legend?.(); }), 50));
  }

  /* What is to be asked is said first, and asked under an id of this page: asked again, it is done once. */
  confirm({ ask: kind, site, said }) {
    const box = $("ask"), id = crypto.randomUUID?.() ?? String(Math.random()).slice(2);
    const form = box.querySelector("form"), answer = box.querySelector("[role=alert]"), [no, go] = box.querySelectorAll("button");
    const name = kind === "set" ? "Change it" : `${kind[0].toUpperCase()}${kind.slice(1)} ${site || "the run"}`;
    form.reset();
    box.querySelector("h2").textContent = `${name}?`;
    box.querySelector("p").textContent = said;
    form.elements.for.closest("label").hidden = kind !== "hold" && kind !== "drain";
    for (const k of ["key", "value"]) form.elements[k].closest("label").hidden = kind !== "set";
    form.elements.who.value = localStorage.getItem("windfall-who") || "";
    [go.textContent, go.hidden, no.textContent, answer.textContent] = [name, false, "Cancel", ""];
    form.onsubmit = async (e) => {
      if (e.submitter?.value !== "yes") return;
      e.preventDefault();
      const given = new FormData(form), body = { kind, id, why: given.get("why"), who: given.get("who") };
      localStorage.setItem("windfall-who", body.who);
      if (site) body.site = site;
      if (kind === "drain") body.expect = $(`w-${this.sites.indexOf(site)}-chip`).firstElementChild.classList[1]; // what the asker sees
      if (given.get("for")) body.for = given.get("for");
      const value = given.get("value").trim();
      if (kind === "set") Object.assign(body, { key: given.get("key"), value: value === "none" ? null : value === "" || isNaN(value) ? value : Number(value) });
      try {
        const left = await ask(`${this.base}/requests`, { method: "POST", headers: { "Content-Type": "application/json", "X-Windfall-Proof": this.proof }, body: JSON.stringify(body) });
        answer.textContent = `Asked: ${left.request.what}; ${left.waits_for || left.request.state}.`;
        [go.hidden, no.textContent] = [true, "Close"];
        this.sync();
      } catch (failed) {
        answer.textContent = failed.message;
      }
    };
    box.showModal();
  }
}

document.addEventListener("DOMContentLoaded", () => {
  const { page, run, proof } = document.body.dataset;
  if (page === "run") window.page = new Page(JSON.parse(run), proof);
  if (page === "runs") setInterval(async () => {
    if (document.hidden || document.activeElement?.name === "search") return;
    const r = await fetch(location.href).catch(() => null);
    if (!r?.ok) return;
    const fresh = new DOMParser().parseFromString(await r.text(), "text/html").getElementById("runs");
    if (fresh.innerHTML !== $("runs").innerHTML && !$("runs").contains(document.activeElement)) $("runs").replaceWith(fresh);
  }, 5000);
});
