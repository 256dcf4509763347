"use strict";
// The page of `asdjax serve`. All texts become text nodes, never HTML.

const POLL_MS = 1500;
const PATIENCE_MS = 15000; // for what is new
const MOST = 200; // recordings that are shown, as many as the server keeps
const MOST_RESULTS = 20;
const TOKEN = "asdjax-token";
const HERTZ = [100, 200, 500, 1000, 2000, 5000, 10000, 20000, 40000];
const MAGMA = ["#000004", "#1d1147", "#51127c", "#822681", "#b73779", "#e75263", "#fc8961", "#fec488", "#fcfdbf"];
const DYNAMIC_DB = 70;
const [FEW, MANY] = [3, 12]; // limits of the colours of deviations

const state = {
  token: sessionStorage.getItem(TOKEN),
  started: null, // when the server was; another value: it was started again
  detector: null,
  recordings: [], // predictions, oldest first
  alarms: new Set(), // numbers of those whose sounds are kept
  selected: null, // number of a recording; null: the latest alarm
  shown: null, // what the details show, as text
  explanation: null, // of a recording that is shown
  explained: null, // its number
};

class Unauthorised extends Error {}

const find = (id) => document.getElementById(id);

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// numbers and words

const score = (value) => value.toFixed(2);
const probability = (value) => (value === null ? "-" : String(Number(value.toPrecision(2))));
const seconds = (value) => `${Number(value.toFixed(2))} s`;
const hertz = (value) => (value >= 1000 ? `${value / 1000} k` : String(value));
const decision = (one) => (one.alarm ? "ALARM" : "ok");
const badge = (one) => make("span", { className: one.alarm ? "badge alarm" : "badge" }, decision(one));
const brief = (name) => (name.length > 120 ? `${name.slice(0, 60)} ... ${name.slice(-50)}` : name);
const nearest = (one) => (one.nearest.length ? brief(one.nearest[0].name) : "");

function clock(text) {
  const time = new Date(text);
  const today = time.toDateString() === new Date().toDateString();
  return today ? time.toLocaleTimeString() : time.toLocaleString();
}

// requests

async function ask(path, options = {}) {
  const headers = state.token ? { Authorization: `Bearer ${state.token}` } : {};
  const response = await fetch(path, { ...options, headers });
  if (response.status === 401) throw new Unauthorised();
  if (!response.ok) {
    const answer = await response.json().catch(() => ({}));
    throw new Error(answer.error ?? `the server answered with status ${response.status}`);
  }
  return response;
}

let timer;
let asking = Promise.resolve();

function refresh() {
  clearTimeout(timer);
  asking = asking.then(poll);
  return asking;
}

async function whatIsNew(last) {
  const response = await ask(`recent?since=${last}`, { signal: AbortSignal.timeout(PATIENCE_MS) });
  return response.json();
}

async function poll() {
  try {
    const last = state.recordings.at(-1)?.id ?? 0;
    let found = await whatIsNew(last);
    if (last && found.started !== state.started) {
      state.recordings = [];
      state.selected = null;
      find("rows").replaceChildren();
      found = await whatIsNew(0);
    }
    take(found);
    tell("live", "live");
  } catch (error) {
    if (error instanceof Unauthorised) return askForToken();
    tell("lost", `not up to date: ${error.message}; trying again`);
  }
  timer = setTimeout(refresh, POLL_MS);
}

function tell(kind, text) {
  const status = find("status");
  if (status.textContent !== text) status.textContent = text;
  status.className = kind;
}

function askForToken() {
  find("login-error").textContent = state.token ? "This is not the server's token." : "";
  state.token = null;
  sessionStorage.removeItem(TOKEN);
  find("content").hidden = true;
  find("login").hidden = false;
  find("token").focus();
  tell("", "waiting for the token");
}

// what the server has said

function take(found) {
  const first = state.started !== found.started;
  const fresh = first || find("content").hidden;
  state.started = found.started;
  state.detector = found.detector;
  state.alarms = new Set(found.alarms);
  state.recordings = [...state.recordings, ...found.predictions].slice(-MOST);
  find("login").hidden = true;
  find("content").hidden = false;
  if (fresh) showDetector();
  if (fresh || found.predictions.length) {
    for (const one of found.predictions) find("rows").prepend(row(one));
    while (find("rows").children.length > MOST) find("rows").lastChild.remove();
    showLatest();
    showChart();
  }
  const alarms = found.predictions.filter((one) => one.alarm);
  if (!first && alarms.length) find("announcement").textContent = `Alarm: ${brief(alarms.at(-1).file)}`;
  showDetails();
}

function showDetector() {
  const about = state.detector;
  find("name").textContent = about.name;
  const facts = {
    "threshold of a window": score(about.threshold),
    "normal without alarm": `${Number((100 * about.level).toFixed(2))} %`,
    "normal recordings": `${about.recordings}`,
    "normal windows": about.bank < about.windows ? `${about.windows}, compared with ${about.bank}` : `${about.windows}`,
    window: `${seconds(about.clip_seconds)} every ${seconds(about.hop_seconds)}`,
    "sample rate": `${about.sample_rate} Hz`,
    channel: `${about.channel}`,
    embedder: about.embedder,
  };
  find("about").replaceChildren(...terms(facts));
}

function terms(facts) {
  return Object.entries(facts).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);
}

function pairs(facts) {
  return Object.entries(facts).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)));
}

function showLatest() {
  const { recordings, detector } = state;
  const last = recordings.at(-1);
  const alarms = recordings.filter((one) => one.alarm).length;
  document.title = `${last?.alarm ? "ALARM: " : ""}${detector.name}`;
  find("latest").replaceChildren(
    ...(last
      ? [badge(last), " ", make("bdi", {}, brief(last.file)), `, ${clock(last.time)}. `, `${alarms} of the last ${recordings.length} alarmed.`]
      : ["No recording has come yet."]),
  );
}

function row(one) {
  const name = make("button", { type: "button", title: one.file }, brief(one.file));
  name.addEventListener("click", () => visit(one.id));
  const number = (value, kind = "") => make("td", { className: `number ${kind}` }, value);
  const line = make(
    "tr",
    { className: one.alarm ? "alarm" : "" },
    make("td", {}, name),
    make("td", {}, badge(one)),
    number(score(one.score)),
    number(score(one.threshold), "wide"),
    number(probability(one.p_value), "wide"),
    make("td", { className: "wide" }, nearest(one)),
    make("td", { className: "time" }, clock(one.time)),
  );
  line.dataset.number = one.id;
  return line;
}

function select(number) {
  state.selected = number;
  showDetails();
}

function visit(number) {
  select(number);
  find("details").scrollIntoView({ block: "nearest" });
}

// the chart

function ticks(low, high) {
  const found = [0];
  for (let size = 1; size <= 1e6; size *= 10) for (const step of [1, 2, 5]) found.push(step * size, -step * size);
  return found.filter((value) => low <= value && value <= high).sort((a, b) => a - b);
}

function showChart() {
  const place = find("chart");
  const [width, height] = [place.clientWidth, place.clientHeight];
  if (!width) return;
  const [left, right, top, bottom] = [44, 8, 8, 24];
  const { recordings, detector } = state;
  const limits = recordings.map((one) => one.threshold);
  const values = [...recordings.map((one) => one.score), ...limits, detector.threshold, 0];
  const [low, high] = [Math.asinh(Math.min(...values)) - 0.3, Math.asinh(Math.max(...values)) + 0.3];
  const step = (width - left - right) / Math.max(recordings.length, 20);
  const x = (i) => left + (i + 0.5) * step;
  const y = (value) => top + ((high - Math.asinh(value)) / (high - low)) * (height - top - bottom);
  const parts = [];
  let free = Infinity;
  for (const value of ticks(Math.sinh(low), Math.sinh(high))) {
    if (free - y(value) < 18) continue;
    free = y(value);
    parts.push(draw("line", { class: "grid", x1: left, x2: width - right, y1: free, y2: free }));
    parts.push(draw("text", { x: left - 6, y: free + 4, "text-anchor": "end" }, String(value)));
  }
  let path = `M ${left} ${y(limits[0] ?? detector.threshold)}`;
  for (const [i, limit] of limits.entries()) path += ` V ${y(limit)} H ${x(i) + step / 2}`;
  if (recordings.length < 20) path += ` H ${width - right}`;
  parts.push(draw("polyline", { class: "line", points: recordings.map((one, i) => `${x(i)},${y(one.score)}`).join(" ") }));
  parts.push(draw("path", { class: "threshold", d: path }));
  const chosen = shownNumber();
  for (const [i, one] of recordings.entries()) {
    const title = draw("title", {}, `${brief(one.file)}: ${decision(one)}, score ${score(one.score)}`);
    const [a, b, more] = [x(i), y(one.score), one.id === chosen ? " selected" : ""];
    parts.push(
      one.alarm
        ? draw("path", { class: `alarm${more}`, d: `M ${a} ${b - 6} l 6 6 l -6 6 l -6 -6 z` }, title)
        : draw("circle", { class: `ok${more}`, cx: a, cy: b, r: 3.5 }, title),
    );
  }
  if (recordings.length) {
    parts.push(draw("text", { x: left, y: height - 4 }, clock(recordings[0].time)));
    if (recordings.length > 1) {
      const end = Math.max(x(recordings.length - 1), left + 170);
      parts.push(draw("text", { x: end, y: height - 4, "text-anchor": "end" }, clock(recordings.at(-1).time)));
    }
  }
  const alarms = recordings.filter((one) => one.alarm).length;
  const label = `Scores of the last ${recordings.length} recordings, ${alarms} above the threshold; listed below`;
  const chart = draw("svg", { width, height, role: "img", "aria-label": label }, ...parts);
  chart.addEventListener("click", (event) => {
    const i = Math.floor((event.clientX - chart.getBoundingClientRect().left - left) / step);
    const one = recordings[Math.min(Math.max(i, 0), recordings.length - 1)];
    if (one) visit(one.id);
  });
  place.replaceChildren(chart);
}

// the details of a recording

function shownNumber() {
  const { recordings, selected } = state;
  if (recordings.some((one) => one.id === selected)) return selected;
  return recordings.findLast((one) => one.alarm)?.id ?? null;
}

function showDetails() {
  const number = shownNumber();
  const one = state.recordings.find((other) => other.id === number);
  const chosen = number !== null && state.selected === number;
  find("details-title").textContent = chosen ? "Recording" : "Latest alarm";
  find("follow").hidden = !chosen || !state.recordings.some((other) => other.alarm);
  const kept = state.alarms.has(number) || state.explained === number;
  const wanted = `${state.started} ${number} ${kept}`;
  if (state.shown === wanted) return;
  state.shown = wanted;
  for (const line of find("rows").children) {
    const here = Number(line.dataset.number) === number;
    line.classList.toggle("selected", here);
    line.querySelector("button").setAttribute("aria-pressed", here);
  }
  showChart();
  forget();
  if (!one) {
    find("facts").replaceChildren();
    find("explanation-note").textContent = "None yet. Choose a recording to see its score.";
    return;
  }
  const facts = {
    score: score(one.score),
    threshold: score(one.threshold),
    "p-value": probability(one.p_value),
    nearest: nearest(one),
    length: seconds(one.seconds),
  };
  if (one.windows > 1) facts["worst window"] = `from ${seconds(one.start)}, of ${one.windows}`;
  find("facts").replaceChildren(
    make("p", { className: "title" }, badge(one), make("bdi", {}, brief(one.file))),
    make("dl", { className: "row" }, ...pairs({ ...facts, time: clock(one.time) })),
    ...one.warnings.map((text) => make("p", { className: "warning" }, `Note: ${text}`)),
  );
  if (kept) explain(number, wanted);
  else if (one.alarm) find("explanation-note").textContent = "Its sound is not kept any more.";
  else find("explanation-note").textContent = "Sound and explanation are kept of alarms alone.";
}

function forget() {
  const audio = find("audio");
  if (audio.src) {
    URL.revokeObjectURL(audio.src);
    audio.removeAttribute("src");
    audio.load();
  }
  state.explanation = state.explained = null;
  find("explanation").hidden = true;
  find("explanation-note").textContent = "";
}

async function explain(number, wanted) {
  find("explanation-note").textContent = "The explanation is being made.";
  try {
    const document = await (await ask(`recent/${number}/explanation`)).json();
    const sound = await (await ask(`recent/${number}/audio`)).blob();
    if (state.shown !== wanted) return; // another one was chosen meanwhile
    find("explanation-note").textContent = "";
    find("explanation").hidden = false;
    find("audio").src = URL.createObjectURL(sound);
    const { prediction } = document;
    const from = prediction.windows > 1 ? `, the worst window, from ${seconds(prediction.start)}` : "";
    find("audio-note").textContent = `The recording${from}.`;
    [state.explanation, state.explained] = [document, number];
    find("areas").replaceChildren(...document.areas.map((area) => make("li", {}, words(area, document.map))));
    showMaps();
  } catch (error) {
    if (error instanceof Unauthorised) return askForToken();
    if (state.shown === wanted) find("explanation-note").textContent = `No explanation: ${error.message}.`;
  }
}

function words(area, map) {
  const all = area.low < map.hertz[0] && area.high > map.hertz.at(-1);
  const where = all ? "all frequencies" : `${area.low.toFixed(0)} to ${area.high.toFixed(0)} Hz`;
  const how = area.deviations > 0 ? "louder" : "softer";
  return `${area.start.toFixed(2)} to ${area.end.toFixed(2)} s, ${where}: ${how} than normal by ${Math.abs(area.deviations).toFixed(1)} standard deviations`;
}

// the maps

const FRAME = { left: 44, right: 58, top: 6, bottom: 22 };

function colour(hex) {
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
}

function between(colours, part) {
  const place = Math.min(Math.max(part, 0), 1) * (colours.length - 1);
  const i = Math.min(Math.floor(place), colours.length - 2);
  return colours[i].map((value, k) => value + (place - i) * (colours[i + 1][k] - value));
}

function showMaps() {
  if (!state.explanation) return;
  const { map, areas, prediction } = state.explanation;
  const length = Math.min(state.detector.clip_seconds, prediction.seconds - prediction.start);
  const middle = getComputedStyle(document.documentElement).getPropertyValue("--middle").trim();
  const blueToRed = ["#2166ac", "#67a9cf", middle, "#ef8a62", "#b2182b"].map(colour);
  const most = (rows) => rows.flat().reduce((a, b) => Math.max(a, Math.abs(b)), 0);
  const levels = map.level_db.flat().sort((a, b) => a - b);
  const top = levels.at(-1);
  const bottom = Math.max(levels[Math.floor(levels.length / 100)], top - DYNAMIC_DB);
  const limit = Math.min(Math.max(most(map.deviations), FEW), MANY);
  const text = areas.map((area) => words(area, map)).join("; ");
  const common = { map, areas, start: prediction.start, length };
  showMap(find("level"), { ...common, rows: map.level_db, low: bottom, high: top, colours: MAGMA.map(colour), frame: "#ffffff" });
  showMap(find("deviations"), { ...common, rows: map.deviations, low: -limit, high: limit, colours: blueToRed, frame: getComputedStyle(document.body).color });
  find("level").setAttribute("aria-label", "Levels by time and frequency");
  find("deviations").setAttribute("aria-label", `Deviations by time and frequency. ${text}`);
}

function showMap(canvas, { map, areas, start, length, rows, low, high, colours, frame }) {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  const ratio = window.devicePixelRatio;
  [canvas.width, canvas.height] = [width * ratio, height * ratio];
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  const [w, h] = [width - FRAME.left - FRAME.right, height - FRAME.top - FRAME.bottom];
  const x = (time) => FRAME.left + ((time - start) / length) * w;
  const bands = map.hertz.length;
  const band = (value) => {
    const i = map.hertz.findIndex((other) => other > value);
    if (i < 1) return i ? bands - 1 : 0;
    return i - 1 + (value - map.hertz[i - 1]) / (map.hertz[i] - map.hertz[i - 1]);
  };
  const y = (place) => FRAME.top + (1 - (place + 0.5) / bands) * h;

  const cells = new OffscreenCanvas(rows.length, bands);
  const image = new ImageData(rows.length, bands);
  for (const [i, values] of rows.entries()) {
    for (const [k, value] of values.entries()) {
      const rgb = between(colours, (value - low) / (high - low));
      image.data.set([...rgb, 255], 4 * ((bands - 1 - k) * rows.length + i));
    }
  }
  cells.getContext("2d").putImageData(image, 0, 0);
  const step = rows.length > 1 ? map.seconds[1] - map.seconds[0] : length;
  const first = x(map.seconds[0] - step / 2);
  context.save();
  context.beginPath();
  context.rect(FRAME.left, FRAME.top, w, h);
  context.clip();
  context.imageSmoothingEnabled = false;
  context.drawImage(cells, first, FRAME.top, x(map.seconds[0] - step / 2 + rows.length * step) - first, h);
  context.strokeStyle = frame;
  for (const [i, area] of areas.entries()) {
    const [upper, lower] = [y(band(area.high) + 0.5), y(band(area.low) - 0.5)];
    const [begin, end] = [Math.max(x(area.start) - 3, FRAME.left + 1), Math.min(x(area.end) + 3, FRAME.left + w - 1)];
    context.lineWidth = i ? 1 : 2;
    context.strokeRect(begin, upper - 3, end - begin, lower - upper + 6);
  }
  context.restore();

  context.fillStyle = getComputedStyle(find("status")).color;
  context.font = "12px system-ui, sans-serif";
  context.textBaseline = "middle";
  context.textAlign = "right";
  let free = Infinity;
  for (const value of HERTZ) {
    const place = y(band(value));
    if (value < map.hertz[0] || value > map.hertz[bands - 1] || free - place < 14) continue;
    free = place;
    context.fillText(hertz(value), FRAME.left - 6, place);
  }
  context.textAlign = "center";
  context.textBaseline = "alphabetic";
  const every = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60].find((size) => (size / length) * w > 44) ?? 120;
  for (let i = Math.ceil(start / every - 1e-6); i * every <= start + length + 1e-6; i++) {
    context.fillText(String(Number((i * every).toFixed(2))), x(i * every), height - 6);
  }
  const bar = width - FRAME.right + 10;
  for (let i = 0; i < h; i++) {
    const rgb = between(colours, 1 - i / h).map(Math.round);
    context.fillStyle = `rgb(${rgb.join(",")})`;
    context.fillRect(bar, FRAME.top + i, 10, 1.5);
  }
  context.fillStyle = getComputedStyle(find("status")).color;
  context.textAlign = "left";
  context.textBaseline = "middle";
  for (const part of [0, 0.5, 1]) {
    const value = low + part * (high - low);
    context.fillText(String(Number(value.toPrecision(2))), bar + 15, FRAME.top + 6 + (1 - part) * (h - 12));
  }
}

function showPlayhead() {
  const audio = find("audio");
  const on = !audio.paused || audio.currentTime > 0;
  for (const line of document.querySelectorAll(".playhead")) {
    const canvas = line.previousElementSibling;
    const w = canvas.clientWidth - FRAME.left - FRAME.right;
    line.style.display = on ? "block" : "none";
    line.style.left = `${FRAME.left + Math.min(audio.currentTime / audio.duration || 0, 1) * w}px`;
    line.style.top = `${FRAME.top}px`;
    line.style.height = `${canvas.clientHeight - FRAME.top - FRAME.bottom}px`;
  }
  if (!audio.paused) requestAnimationFrame(showPlayhead);
}

// uploads

async function upload(files) {
  for (const file of files) {
    const result = make("li", {}, `${brief(file.name)}: being scored`);
    find("results").prepend(result);
    while (find("results").children.length > MOST_RESULTS) find("results").lastChild.remove();
    try {
      const query = new URLSearchParams({ name: file.name });
      const one = await (await ask(`predict?${query}`, { method: "POST", body: file })).json();
      result.replaceChildren(
        make("p", { className: "title" }, badge(one), make("bdi", {}, brief(file.name))),
        make("dl", {}, ...terms({ score: `${score(one.score)}, threshold ${score(one.threshold)}`, "p-value": probability(one.p_value), nearest: nearest(one) })),
        ...one.warnings.map((text) => make("p", { className: "warning" }, `Note: ${text}`)),
      );
      await refresh();
      const known = state.recordings.findLast((other) => other.file === one.file);
      if (known) select(known.id);
    } catch (error) {
      if (error instanceof Unauthorised) return askForToken();
      result.replaceChildren(make("p", { className: "error" }, `${brief(file.name)}: ${error.message}`));
    }
  }
}

// events

find("login").addEventListener("submit", (event) => {
  event.preventDefault();
  state.token = find("token").value.trim();
  sessionStorage.setItem(TOKEN, state.token);
  find("token").value = "";
  refresh();
});
find("file").addEventListener("change", (event) => {
  const files = [...event.target.files];
  event.target.value = ""; // the same file can be chosen again
  upload(files);
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  window.addEventListener(kind, (event) => {
    event.preventDefault();
    find("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && !find("content").hidden) upload([...event.dataTransfer.files]);
  });
}
find("follow").addEventListener("click", () => {
  state.selected = null;
  showDetails();
});
find("audio").addEventListener("play", () => select(shownNumber())); // a new alarm does not end it
find("only").addEventListener("change", (event) => find("rows").classList.toggle("only-alarms", event.target.checked));
for (const kind of ["play", "pause", "seeked", "emptied"]) find("audio").addEventListener(kind, showPlayhead);
new ResizeObserver(() => {
  showChart();
  showMaps();
}).observe(find("content"));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showMaps);
if (document.body.hasAttribute("data-token") && !state.token) askForToken();
else refresh();
