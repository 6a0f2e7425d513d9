/* Figures of a run's page, drawn with uPlot. Every chart is a slider to keyboards and screen readers: its cursor moves along one axis. */
"use strict";

const utc = (t) => new Date(t * 1000).toISOString();
const inWords = (t) => new Date(t * 1000).toUTCString().replace(/^.*?(\d\d) (...) \d+ (\d\d:\d\d).*$/, "$2 $1 $3"); // as the server says it
const clock = (t) => `${utc(t).slice(0, 10)} ${utc(t).slice(11, 16)}`;
const short = (v, digits = 4) => (v == null ? "unknown" : Number(v.toPrecision(digits)).toLocaleString("en"));
const millions = (n) => (n >= 1e9 ? `${short(n / 1e9)} billion` : n >= 1e6 ? `${short(n / 1e6)} million` : n.toLocaleString("en"));
const style = getComputedStyle(document.documentElement);
const colour = (name) => style.getPropertyValue(`--${name}`).trim() || "#888";
const BASELINES = ["b-0", "b-1", "b-2", "b-3", "b-4", "b-5"], DASHES = { dotted: [2, 3], dashed: [6, 3], dashdot: [9, 3, 2, 3] };
const WORDS = {
  off: "off", missed: "window missed", held: "held", provisioning: "provisioning", idle: "on and idle", local: "local",
  federated: "federated", draining: "draining", failed: "failed", paused: "paused",
};
const phone = () => innerWidth < 640;

/* A canvas knows no CSS: hatched tiles for what must not be told by its colour alone. */
function tile(kind, ratio) {
  const [c, size] = [document.createElement("canvas"), Math.round(6 * ratio)];
  c.width = c.height = size;
  const g = c.getContext("2d");
  g.strokeStyle = g.fillStyle = colour(kind === "missed" ? "c-idle" : "muted");
  g.lineWidth = 1.2 * ratio;
  g.beginPath();
  if (kind === "missed") for (const k of [-1, 0, 1]) { g.moveTo(k * size, size); g.lineTo((k + 1) * size, 0); }
  else for (const k of [0.25, 0.75]) { g.moveTo(k * size, 0); g.lineTo(k * size, size); }
  g.stroke();
  return g.createPattern(c, "repeat");
}

function fillOf(g, what) {
  if (what === "missed" || what === "held") return tile(what, devicePixelRatio);
  return colour(what === "off" || what === "paused" ? "line" : `c-${what}`);
}

/* Blocks of a lane: a strip at its foot, and a tint above it where the site trained. */
function strip(u, blocks, names, top, height, tint) {
  const g = u.ctx;
  g.save();
  g.beginPath();
  g.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height + devicePixelRatio);
  g.clip();
  g.font = `${10 * devicePixelRatio}px system-ui, sans-serif`;
  g.textBaseline = "middle";
  for (const [a, b, w] of blocks) {
    if (b < u.scales.x.min || a > u.scales.x.max) continue;
    const [x0, x1] = [Math.max(u.valToPos(a, "x", true), u.bbox.left), Math.min(u.valToPos(b, "x", true), u.bbox.left + u.bbox.width)];
    const width = Math.max(devicePixelRatio, x1 - x0);
    g.fillStyle = fillOf(g, names[w]);
    g.fillRect(x0, top, width, height);
    if (tint && (names[w] === "local" || names[w] === "federated")) {
      g.globalAlpha = 0.13;
      g.fillRect(x0, u.bbox.top, width, top - u.bbox.top);
      g.globalAlpha = 1;
    }
    const label = names[w] === "local" || names[w] === "federated" ? names[w] : "";
    if (label && g.measureText(label).width + 8 * devicePixelRatio < width) {
      g.fillStyle = colour("on-mode");
      g.fillText(label, x0 + 4 * devicePixelRatio, top + height / 2 + devicePixelRatio / 2);
    }
  }
  g.restore();
}

function dashed(u, y, ink) {
  const g = u.ctx;
  g.save();
  g.strokeStyle = ink;
  g.lineWidth = devicePixelRatio;
  g.setLineDash([4 * devicePixelRatio, 3 * devicePixelRatio]);
  g.beginPath();
  g.moveTo(u.bbox.left, y);
  g.lineTo(u.bbox.left + u.bbox.width, y);
  g.stroke();
  g.restore();
}

/* What the newest forecast says, in the band of what the last few have said. */
function forecast(u, f) {
  if (!f || !f.t.length) return;
  const g = u.ctx, x = (t) => u.valToPos(t, "x", true), y = (v) => u.valToPos(v, "y", true);
  g.save();
  g.beginPath();
  g.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
  g.clip();
  g.fillStyle = g.strokeStyle = colour("accent");
  g.globalAlpha = 0.18;
  const known = f.t.map((t, i) => [t, f.low[i], f.high[i], f.value[i]]).filter((p) => p[3] != null);
  g.beginPath();
  for (const p of known) g.lineTo(x(p[0]), y(p[2]));
  for (const p of known.slice().reverse()) g.lineTo(x(p[0]), y(p[1]));
  g.fill();
  g.globalAlpha = 0.9;
  g.lineWidth = 1.2 * devicePixelRatio;
  g.setLineDash([2 * devicePixelRatio, 2 * devicePixelRatio]);
  g.beginPath();
  for (const p of known) g.lineTo(x(p[0]), y(p[3]));
  g.stroke();
  g.restore();
}

/* Hours of the day, and the day where it begins or is the first that is shown. */
function instantLabel(t, before, step) {
  const [day, hour] = [new Date(t * 1000).toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" }), utc(t).slice(11, step < 60 ? 19 : 16)];
  if (step >= 86400 || (hour === "00:00" && before != null)) return day;
  return before == null ? `${day} ${hour}` : hour;
}

function axes(unit, kind, more = {}) {
  const base = { stroke: () => colour("muted"), font: "11px system-ui, sans-serif", grid: { stroke: () => colour("line"), width: 1 }, ticks: { show: false } };
  const time = kind !== "tokens", labels = { values: (u, v) => v.map((t, i) => instantLabel(t, v[i - 1], v[1] - v[0])) };
  const values = time ? labels : { values: (_, v) => v.map((n) => (n == null ? "" : n >= 1e9 ? `${short(n / 1e9)}B` : n >= 1e6 ? `${short(n / 1e6)}M` : n >= 1e3 ? `${short(n / 1e3)}k` : `${n}`)) };
  return [
    { ...base, ...values, size: 24, space: time ? 76 : 60, grid: { show: kind !== "lane", stroke: () => colour("line"), width: 1 } },
    { ...base, size: phone() ? 38 : 52, label: phone() ? undefined : unit, labelSize: 14, labelFont: "11px system-ui, sans-serif", space: 26, ...more },
  ];
}

class Chart {
  /* host: the element that is drawn in; over: "t" (run time) or "tokens"; say: what is at a place of the data, in words. */
  constructor(page, host, over, label) {
    Object.assign(this, { page, host, over, label, plot: null, data: null, at: null });
    host.tabIndex = 0;
    const aria = { role: "slider", "aria-label": label, "aria-valuemin": "0", "aria-valuemax": "0", "aria-valuenow": "0", "aria-valuetext": "still loading" };
    for (const [k, v] of Object.entries(aria)) host.setAttribute(k, v);
    host.addEventListener("keydown", (e) => this.key(e));
    this.readout = Object.assign(document.createElement("p"), { className: "readout", ariaHidden: "true" });
    const table = document.querySelector(`[data-table="${host.dataset.chart}"]`);
    host.after(this.readout);
    if (table) table.addEventListener("toggle", () => this.table());
    this.behind = table;
    new ResizeObserver(() => this.plot && this.plot.setSize(this.size())).observe(host);
  }
  size() { return { width: Math.max(200, this.host.clientWidth), height: this.host.clientHeight }; }
  options(more) {
    const time = this.over === "t";
    return {
      ...this.size(), pxAlign: 1, legend: { show: false }, tzDate: (ts) => uPlot.tzDate(new Date(ts * 1e3), "Etc/UTC"),
      cursor: {
        y: false, points: { show: false }, drag: { x: true, y: false, setScale: false },
        ...(time ? { sync: { key: "t", scales: ["x", null] } } : {}), bind: { dblclick: () => () => this.page.zoomOut(this.over) },
      },
      ...more,
      hooks: {
        ...more.hooks,
        setSelect: [(u) => {
          if (u.select.width < 4) return;
          const [a, b] = [u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")];
          u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
          this.page.zoom(this.over, a, b);
        }],
        setCursor: [(u) => {
          const i = u.cursor.idx;
          this.readout.textContent = i == null ? "" : this.say(u.posToVal(u.cursor.left, "x"), i);
        }],
      },
    };
  }

  draw(options, data) {
    const kept = this.plot;
    if (kept && this.shape === JSON.stringify(options.shape)) {
      kept.setData(data, false);
      this.rescale();
    } else {
      if (kept) kept.destroy();
      this.host.replaceChildren();
      this.shape = JSON.stringify(options.shape);
      this.plot = new uPlot(options, data, this.host);
      this.plot.over.addEventListener("click", (e) => this.over === "t" && e.detail === 1 && this.page.pick(this.plot.posToVal(this.plot.cursor.left, "x")));
      this.rescale();
    }
    const n = (data[0] || []).length;
    this.host.setAttribute("aria-valuemax", String(Math.max(0, n - 1)));
    if (this.at == null) this.host.setAttribute("aria-valuetext", n ? `${n} points, ${this.where(data[0][0])} to ${this.where(data[0][n - 1])}` : "nothing yet");
    if (this.behind && this.behind.open) this.table();
  }
  where(x) { return this.over === "t" ? `${clock(x)} UTC` : `${millions(Math.round(x))} tokens`; }
  /* What is at x, in words. */
  say(x, i) {
    const cells = this.cells(x, i);
    return `${this.where(x)}: ${this.columns().map((c, j) => cells[j] && `${c} ${cells[j]}`).filter(Boolean).join(", ")}`;
  }

  rescale() {
    const r = this.range();
    this.plot.setScale("x", { min: r[0], max: r[1] });
  }

  key(e) {
    if (!this.plot || e.ctrlKey || e.metaKey || e.altKey) return;
    const xs = this.plot.data[0], n = xs.length, [lo, hi] = [this.plot.scales.x.min, this.plot.scales.x.max];
    const first = xs.findIndex((x) => x >= lo), last = n - 1 - xs.slice().reverse().findIndex((x) => x <= hi);
    const now = this.at == null ? last : Math.min(last, Math.max(first, this.at));
    const far = Math.max(1, Math.round((last - first) / 10));
    const to = { ArrowLeft: now - 1, ArrowDown: now - 1, ArrowRight: now + 1, ArrowUp: now + 1, PageUp: now + far, PageDown: now - far, Home: first, End: last }[e.key];
    if (to !== undefined && n) {
      this.at = Math.min(last, Math.max(first, to));
      const x = xs[this.at];
      this.plot.setCursor({ left: this.plot.valToPos(x, "x"), top: this.plot.over.clientHeight / 2 });
      this.host.setAttribute("aria-valuenow", String(this.at));
      this.host.setAttribute("aria-valuetext", this.say(x, this.at));
    } else if (e.key === "+" || e.key === "=") {
      const mid = n && this.at != null ? xs[this.at] : (lo + hi) / 2;
      this.page.zoom(this.over, mid - (hi - lo) / 4, mid + (hi - lo) / 4);
    } else if (e.key === "-") this.page.zoomOut(this.over);
    else if (e.key === "Enter" && this.over === "t" && n) this.page.pick(xs[this.at == null ? last : this.at], true);
    else return;
    e.preventDefault();
  }

  table() {
    if (!this.behind || !this.behind.open || !this.plot) return;
    const [lo, hi] = this.range(), xs = this.plot.data[0];
    const rows = xs.map((x, i) => i).filter((i) => xs[i] >= lo && xs[i] <= hi);
    const step = Math.max(1, Math.ceil(rows.length / 60));
    const t = document.createElement("table");
    const line = (tag, cells, into) => { const r = into.insertRow(); for (const c of cells) { const d = document.createElement(tag); d.textContent = c; if (tag === "th") d.scope = "col"; r.append(d); } };
    line("th", [this.over === "t" ? "run time, UTC" : "tokens", ...this.columns()], t.createTHead());
    const body = t.createTBody();
    rows.filter((_, i) => i % step === 0).forEach((i) => line("td", [this.over === "t" ? clock(xs[i]) : xs[i].toLocaleString("en"), ...this.cells(xs[i], i)], body));
    this.behind.querySelector(".scroll").replaceChildren(t);
  }
  range() { return this.page.range(this.over); }
}

class Lane extends Chart {
  show(lane, blocks) {
    this.lane = lane;
    this.names = blocks;
    const s = lane.signal, high = s.high.length ? s.high : s.low, self = this;
    const steps = uPlot.paths.stepped({ align: 1 });
    this.draw(this.options({
      shape: [lane.site, lane.unit], padding: [6, 8, 0, 0], axes: axes(lane.unit, "lane", { splits: (u) => self.splits(u), grid: { show: false } }),
      scales: { x: { time: true, auto: false }, y: { range: (u) => self.heights(u) } },
      series: [{}, { stroke: () => colour("ink"), width: 1.1, paths: steps, points: { show: false } }, { stroke: () => colour("ink"), width: 0.6, paths: steps, points: { show: false } }],
      bands: [{ series: [2, 1], fill: () => colour("ink") + "30" }],
      hooks: {
        drawClear: [(u) => { const h = 15 * devicePixelRatio; strip(u, self.lane.blocks, self.names, u.bbox.top + u.bbox.height - h, h, true); }],
        draw: [(u) => { dashed(u, u.valToPos(self.lane.level, "y", true), colour("c-draining")); forecast(u, self.lane.forecast); }],
      },
    }), [s.t, s.low, high]);
  }

  heights(u) {
    const s = this.lane.signal, high = s.high.length ? s.high : s.low, level = this.lane.level;
    let [lo, hi] = [Math.min(0, level), Math.max(level * 1.3, 1e-9)];
    s.t.forEach((t, i) => {
      const x = u.scales.x.min == null ? { min: -Infinity, max: Infinity } : u.scales.x;
      if (s.low[i] == null || t > x.max || (i + 1 < s.t.length && s.t[i + 1] < x.min)) return;
      lo = Math.min(lo, s.low[i]);
      hi = Math.max(hi, high[i]);
    });
    const room = 20 / Math.max(30, this.host.clientHeight - 34);
    return [lo - (hi - lo) * room * 1.15, hi + (hi - lo) * 0.08];
  }

  splits(u) {
    const [, top] = this.heights(u), level = this.lane.level, most = Math.max(0, ...this.lane.signal.low.filter((v) => v != null));
    const found = [level];
    if (level > 0.25 * top) found.unshift(0);
    if (most > 2.2 * level) found.push(Number(most.toPrecision(2)));
    return found;
  }

  cells(x) {
    const s = this.lane.signal, i = s.t.findLastIndex((t) => t <= x + 1e-6);
    const high = s.high.length ? s.high : s.low;
    const value = i < 0 || s.low[i] == null ? "unknown" : high[i] !== s.low[i] ? `${short(s.low[i])} to ${short(high[i])}` : short(s.low[i]);
    const block = this.lane.blocks.find(([a, b]) => a <= x && x < b) || this.lane.blocks.findLast(([a]) => a <= x);
    return [value, block ? WORDS[this.names[block[2]]] : ""];
  }
  columns() { return [this.lane.unit, "the site"]; }
  say(x) {
    const [value, what] = this.cells(x);
    return `${clock(x)} UTC: ${value} ${this.lane.unit}${what ? `, ${what}` : ""}`;
  }
}

class Loss extends Chart {
  show(found) {
    const self = this, p = found.training, line = uPlot.paths.linear(), none = () => null;
    this.found = found;
    const of = (mode) => p.map((q) => (q.mode === mode || (mode === "local" && q.mode !== "federated") ? q.mean : null));
    const xs = p.map((q) => q.tokens), v = found.versions;
    const training = [xs, p.map((q) => q.low), p.map((q) => q.high), of("local"), of("federated")];
    const data = uPlot.join([training, [v.map((q) => q.tokens), v.map((q) => q.val_bpb)]]);
    const log = this.page.log;
    const loss = { width: 0.9, alpha: 0.75, paths: line, points: { show: false }, spanGaps: true };
    const ranged = (u, lo, hi) => (lo == null ? [0.5, 10] : log ? [lo * 0.93, hi * 1.07] : [Math.max(0, lo - (hi - lo || 1) * 0.06), hi + (hi - lo || 1) * 0.06]);
    const ax = axes("nats per token", "tokens"), right = axes("bits per byte", "tokens")[1];
    this.draw(this.options({
      shape: [log, phone()], padding: [10, 8, 0, 0], axes: [ax[0], ax[1], { ...right, side: 1, scale: "b", grid: { show: false }, show: !phone() }],
      scales: { x: { time: false, auto: false }, y: { distr: log ? 3 : 1, range: ranged }, b: { distr: log ? 3 : 1, range: ranged } },
      series: [{}, { stroke: () => "transparent", paths: line, points: { show: false }, spanGaps: true }, { stroke: () => "transparent", paths: line, points: { show: false }, spanGaps: true },
        { ...loss, stroke: () => colour("c-local"), spanGaps: false }, { ...loss, stroke: () => colour("c-federated"), spanGaps: false, dash: [5, 2] },
        { scale: "b", stroke: () => colour("ink"), width: 0.8, paths: none, points: { show: false } }],
      bands: [{ series: [2, 1], fill: () => colour("muted") + "30" }],
      hooks: { draw: [(u) => self.marks(u)] },
    }), data);
  }

  /* Versions: dots where one site trained, squares where several did. */
  marks(u) {
    const g = u.ctx, size = (this.found.versions.length > 150 ? 1.6 : 3.2) * devicePixelRatio;
    let before = null;
    g.save();
    g.beginPath();
    g.rect(u.bbox.left - size, u.bbox.top - size, u.bbox.width + 2 * size, u.bbox.height + 2 * size);
    g.clip();
    g.lineWidth = 1.6 * devicePixelRatio;
    g.setLineDash([]);
    for (const v of this.found.versions) {
      const [x, y] = [u.valToPos(v.tokens, "x", true), u.valToPos(v.val_bpb, "b", true)];
      g.fillStyle = g.strokeStyle = colour(v.mode === "federated" ? "c-federated" : v.mode === "local" ? "c-local" : "muted");
      g.beginPath();
      if (before) { g.moveTo(...before); g.lineTo(x, y); g.stroke(); g.beginPath(); }
      if (v.mode === "federated") g.rect(x - size, y - size, 2 * size, 2 * size);
      else g.arc(x, y, size * 1.15, 0, 2 * Math.PI);
      g.fill();
      before = [x, y];
    }
    g.restore();
  }
  columns() { return ["training loss", "mode", "validation bits per byte"]; }
  cells(x, i) {
    const d = this.plot.data, mean = d[3][i] ?? d[4][i];
    return [mean == null ? "" : short(mean), d[4][i] != null ? "federated" : d[3][i] != null ? "local" : "", d[5][i] == null ? "" : short(d[5][i], 5)];
  }

  say(x, i) {
    const [loss, mode, bpb] = this.cells(x, i);
    return `${this.where(this.plot.data[0][i])}${loss && `: training loss ${loss}, ${mode}`}${bpb && `; validation ${bpb} bits per byte`}`;
  }
  range() { return this.page.range("tokens") || [0, Math.max(1, this.found.budget)]; }
}

class Emissions extends Chart {
  show(found) {
    this.found = found;
    // More lines than these nobody tells apart: what the run is compared with first, other ways to train, then regions; and the oracle.
    const rank = (o) => (o.headline ? 0 : o.kind !== "region" ? 1 : o.own ? 3 : 2);
    const plain = found.against.filter((o) => o.t.length && o.kind !== "oracle").sort((a, b) => rank(a) - rank(b)).slice(0, BASELINES.length);
    this.others = [...plain, ...found.against.filter((o) => o.t.length && o.kind === "oracle")];
    const tables = [[found.t, found.kg], ...this.others.map((o) => [o.t, o.kg])].filter((t) => t[0].length);
    const data = tables.length > 1 ? uPlot.join(tables) : tables[0] || [[], []];
    const line = { points: { show: false }, spanGaps: true };
    this.draw(this.options({
      shape: this.others.map((o) => o.name), padding: [10, 10, 0, 0], axes: axes("kg CO2", "time"),
      scales: { x: { time: true, auto: false }, y: { range: (u, lo, hi) => [Math.min(0, lo) * 1.06, (Math.max(0, hi) || 1) * 1.06] } },
      series: [{}, { ...line, stroke: () => colour("c-federated"), width: 2.6 },
        ...this.others.map((o, i) => ({ ...line, width: 1.4, stroke: () => colour(this.ink(o, i)), dash: DASHES[this.dash(o)] }))].slice(0, data.length),
    }), data);
    this.legend();
  }
  dash(o) { return o.kind === "oracle" ? "dotted" : o.kind !== "region" ? "dashdot" : o.own ? "solid" : "dashed"; }
  ink(o, i) { return o.kind === "oracle" ? "accent" : BASELINES[i % BASELINES.length]; }
  legend() {
    let list = this.host.parentNode.querySelector("ul.legend");
    if (!list) { list = document.createElement("ul"); list.className = "legend"; this.readout.after(list); }
    const item = (ink, css, text) => { const li = document.createElement("li"), s = document.createElement("i"); s.className = `line ${css}`; s.dataset.ink = ink; li.append(s, text); return li; };
    const last = this.found.kg[this.found.kg.length - 1], rest = this.found.against.filter((o) => !this.others.includes(o));
    list.replaceChildren(item("c-federated", "thick", last == null ? "this run" : `this run ${short(last)} kg`),
      ...this.others.map((o, i) => item(this.ink(o, i), this.dash(o), `${o.name} ${short(o.total_kg)} kg`)));
    const whys = new Map();
    for (const o of rest) { const why = o.why ? `not computable: ${o.why}` : "not drawn"; whys.set(why, [...(whys.get(why) || []), o.total_kg == null ? o.name : `${o.name} ${short(o.total_kg)} kg`]); }
    for (const [why, names] of whys) list.append(Object.assign(document.createElement("li"), { textContent: `${names.length > 4 ? `${names.length} more` : names.join(", ")}: ${why}` }));
    if (this.found.against_state !== "there") list.append(item("muted", "dashed", this.found.against_state === "loading" ? "baselines and oracle: still working them out" : `no baselines: ${this.found.against_why}`));
    for (const s of list.querySelectorAll("i")) s.style.color = colour(s.dataset.ink);
  }

  range() {
    const r = this.page.range("t");
    if (this.page.view) return r;
    return [r[0], Math.min(3 * r[1] - 2 * r[0], Math.max(r[1], ...this.others.map((o) => o.t[o.t.length - 1])))];
  }

  /* The value of a curve between two of its points. */
  value(table, x) {
    const [t, kg] = table, i = t.findLastIndex((a) => a <= x);
    if (i < 0) return null;
    if (i === t.length - 1) return kg[i];
    return kg[i] + ((kg[i + 1] - kg[i]) * (x - t[i])) / (t[i + 1] - t[i]);
  }
  columns() { return ["this run", ...this.others.map((o) => o.name)]; }
  cells(x) {
    return [[this.found.t, this.found.kg], ...this.others.map((o) => [o.t, o.kg])].map((t, i) => {
      const v = i === 0 && t[0].length && x > t[0][t[0].length - 1] + 1 ? null : this.value(t, x);
      return v == null ? "" : `${short(v)} kg`;
    });
  }
}

/* A row for each site, darker for more: as many sites as there are, and nothing told by hue. */
class Heat extends Chart {
  show(found, name, unit) {
    Object.assign(this, { found, name, unit });
    this.host.style.height = `${Math.max(70, found.sites.length * 18 + 34)}px`;
    const self = this, n = found.sites.length;
    this.most = Math.max(1e-9, ...found.sites.flatMap((s) => s[name].map((v) => v || 0)));
    const ax = axes("", "time");
    this.draw(this.options({
      shape: [found.sites.map((s) => s.site), phone()], padding: [2, 8, 0, 0],
      axes: [{ ...ax[0], grid: { show: false } }, { ...ax[1], label: undefined, size: phone() ? 84 : 130, grid: { show: false }, splits: () => found.sites.map((_, i) => n - 1 - i), values: (u, v) => v.map((i) => (found.sites[n - 1 - i] || {}).site) }],
      scales: { x: { time: true, auto: false }, y: { range: () => [-0.5, n - 0.5] } },
      series: [{}, { stroke: "transparent", points: { show: false } }],
      hooks: { drawClear: [(u) => self.cellsDrawn(u)] },
    }), [found.t, found.t.map(() => 0)]);
  }

  cellsDrawn(u) {
    const g = u.ctx, f = this.found, n = f.sites.length;
    g.save();
    g.beginPath();
    g.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
    g.clip();
    f.sites.forEach((s, row) => {
      const [y0, y1] = [u.valToPos(n - 1 - row + 0.42, "y", true), u.valToPos(n - 1 - row - 0.42, "y", true)];
      g.globalAlpha = 0.5;
      g.fillStyle = colour("line");
      g.fillRect(u.bbox.left, y0, u.bbox.width, y1 - y0);
      g.fillStyle = colour("accent");
      s[this.name].forEach((v, i) => {
        if (!v) return;
        const [x0, x1] = [u.valToPos(f.t[i], "x", true), u.valToPos(f.t[i] + f.width_s, "x", true)];
        g.globalAlpha = 0.15 + 0.85 * Math.min(1, v / this.most);
        g.fillRect(x0, y0, Math.max(devicePixelRatio, x1 - x0), y1 - y0);
      });
    });
    g.restore();
  }
  columns() { return this.found.sites.map((s) => s.site); }
  cells(x) {
    const i = Math.min(this.found.t.length - 1, Math.max(0, Math.floor((x - this.found.t[0]) / this.found.width_s)));
    return this.found.sites.map((s) => this.unit(s[this.name][i]));
  }
}
