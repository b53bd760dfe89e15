"use strict";
// Every text of a region goes into the page by textContent, never as markup.

const $ = (id) => document.getElementById(id);
const POINTS = 300;
const COLOURS = ["#2f7ed8", "#d9730d", "#2a9d5c", "#b8418b", "#8a63d2", "#c0392b"];

let source = null;
let chosen = decodeURIComponent(location.hash.slice(1));
let drawn = [0, 1, 2];
let plot = null;
let history = { times: [], rows: [] };
let looks = [];
let order = { key: "name", down: false };
let known = [];

function connect() {
  if (source) source.close();
  source = new EventSource("events" + (chosen ? "?region=" + encodeURIComponent(chosen) : ""));
  source.onopen = () => tell("live", false);
  source.onerror = () => {
    tell("connection lost: trying again", true);
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 1000);
  };
  source.addEventListener("regions", (event) => showRegions(JSON.parse(event.data)));
  source.addEventListener("room", (event) => showRoom(JSON.parse(event.data)));
  source.addEventListener("values", (event) => showValues(JSON.parse(event.data)));
}

function tell(text, lost) {
  $("connection").textContent = text;
  $("connection").classList.toggle("lost", lost);
}

function choose(name) {
  chosen = name;
  location.replace("#" + encodeURIComponent(name));
  drawn = [0, 1, 2];
  history = { times: [], rows: [] };
  looks = [];
  $("values").replaceChildren();
  connect();
}

// ---- the table ---------------------------------------------------------------------

function showRoom(room) {
  $("room").textContent = "/dev/shm: " + size(room.used) + " of " + size(room.total) + " used";
}

function size(bytes) {
  const unit = ["bytes", "kB", "MB", "GB", "TB"];
  let power = 0;
  while (bytes >= 1000 && power < 4) [bytes, power] = [bytes / 1000, power + 1];
  return Number(bytes.toPrecision(3)) + " " + unit[power];
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const key = button.dataset.key;
    order = { key, down: order.key === key ? !order.down : key !== "name" };
    for (const each of document.querySelectorAll("th[aria-sort]")) each.removeAttribute("aria-sort");
    button.parentNode.setAttribute("aria-sort", order.down ? "descending" : "ascending");
    showRows(known);
  });
}

function showRegions(regions) {
  if (!chosen && regions.length) return choose(regions[0].name);
  known = regions;
  showRows(regions);
  const dead = regions.filter((region) => region.died).map((region) => region.name);
  const text = dead.length ? "A process died while it held the lock of " + dead.join(", ") + " for writing: the data may be half-written." : "";
  if ($("banner").textContent !== text) $("banner").textContent = text;
  $("banner").hidden = !dead.length;
  const mine = regions.find((region) => region.name === chosen);
  const appears = mine && $("detail").hidden;
  $("detail").hidden = !mine;
  if (appears) draw(); // it had no width before
  if (mine && mine.detail) showDetail(mine, mine.detail);
}

// They come by name, and stay so among equals.
function inOrder(regions) {
  const sorted = order.key === "name" ? [...regions] : [...regions].sort((one, other) => one[order.key] - other[order.key]);
  return order.down ? sorted.reverse() : sorted;
}

function showRows(regions) {
  const rows = new Map([...$("regions").children].map((row) => [row.dataset.name, row]));
  inOrder(regions).forEach((region, index) => {
    const row = rows.get(region.name) || newRow(region.name);
    rows.delete(region.name);
    const [, type, bytes, holder, waiting, writes] = row.children;
    type.textContent = region.type;
    bytes.textContent = region.bytes.toLocaleString("en");
    holder.textContent = region.died ? "writer died" : region.holder;
    waiting.textContent = region.waiting;
    writes.textContent = region.rate === null ? "" : region.rate.toLocaleString("en");
    row.classList.toggle("died", region.died);
    mark(row);
    if ($("regions").children[index] !== row) $("regions").insertBefore(row, $("regions").children[index] || null);
  });
  for (const row of rows.values()) row.remove();
  $("none").hidden = regions.length > 0;
  filter();
}

function newRow(name) {
  const row = document.createElement("tr");
  row.dataset.name = name;
  ["", "wide", "number wide", "", "number", "number"].forEach((kind) => {
    row.appendChild(document.createElement("td")).className = kind;
  });
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = name;
  button.addEventListener("click", () => choose(name));
  row.firstChild.appendChild(button);
  return row;
}

function mark(row) {
  const mine = row.dataset.name === chosen;
  row.classList.toggle("chosen", mine);
  row.querySelector("button").setAttribute("aria-current", mine ? "true" : "false");
}

function filter() {
  const wanted = $("filter").value.toLowerCase();
  for (const row of $("regions").children) row.hidden = !row.dataset.name.toLowerCase().includes(wanted);
}

$("filter").addEventListener("input", filter);
$("regions").addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  event.preventDefault();
  const buttons = [...document.querySelectorAll("#regions tr:not([hidden]) button")];
  const next = buttons[buttons.indexOf(document.activeElement) + step];
  if (next) next.focus();
});

// ---- the chosen one ----------------------------------------------------------------

function showDetail(region, detail) {
  $("name").textContent = region.name;
  $("facts").textContent = [
    region.type,
    region.bytes.toLocaleString("en") + " bytes",
    count(detail.writes || 0, "write") + (detail.writes ? ", the last one " + span(detail.ago) + " ago" : ""),
    "attached " + count(detail.attached, "time") + (detail.processes.length ? ": " + detail.processes.join(", ") : ""),
  ].join("; ");
  $("people").hidden = !detail.people.length;
  fill($("people").querySelector("tbody"), detail.people.map((each) => [
    each.name, each.kind, each.waiting ? "waits" : "holds it" + (each.since === null ? "" : " for " + span(each.since)),
    each.label || "",
  ]), ["", "", "", ""]);
  showLooks(region.waiting);
  $("waits").hidden = !detail.figures;
  $("no-waits").hidden = !!detail.figures;
  if (detail.figures) showFigures(detail.figures);
}

function showLooks(waiting) {
  looks = [...looks, waiting].slice(-60);
  const titles = looks.map((count, index) => count + " waiting, " + (looks.length - 1 - index) + " s ago");
  bars($("looks"), [...Array(60 - looks.length).fill(0), ...looks], [...Array(60 - looks.length).fill(""), ...titles]);
  const found = looks.filter(Boolean).length;
  $("looks-text").textContent = !found ? "No process was seen waiting." :
    "Processes were seen waiting in " + found + " of " + looks.length + " looks, " + Math.max(...looks) + " at most.";
  $("looks").setAttribute("aria-label", $("looks-text").textContent);
}

function showFigures(figures) {
  const titles = figures.waits.map((number, index) => {
    const bound = figures.bounds[index];
    return count(number, "wait") + (bound === undefined ? " longer than all" : " up to " + span(bound));
  });
  bars($("bars"), figures.waits, titles);
  if (!$("bounds").children.length) {
    for (const bound of [figures.bounds[0], figures.bounds[figures.bounds.length >> 1], figures.bounds[figures.bounds.length - 1]]) {
      $("bounds").appendChild(document.createElement("span")).textContent = span(bound);
    }
  }
  $("waits-text").textContent = titles.filter((_, index) => figures.waits[index]).join("; ") || "No lock had to be waited for.";
  $("bars").setAttribute("aria-label", $("waits-text").textContent);
  const rows = [["all locks", figures.all], ...Object.entries(figures.labels)].map(([label, each]) => [
    label, each.reads.toLocaleString("en"), each.writes.toLocaleString("en"), each.contended.toLocaleString("en"),
    each.holds ? span(each.held / each.holds) : "", each.holds ? span(each.longest_hold) : "",
  ]);
  fill($("labels"), rows, ["", "number wide", "number wide", "number", "number", "number"]);
}

function bars(place, counts, titles) {
  const most = Math.max(1, ...counts);
  while (place.children.length < counts.length) place.appendChild(document.createElement("div"));
  counts.forEach((count, index) => {
    place.children[index].style.height = (100 * count) / most + "%";
    place.children[index].title = titles[index];
  });
}

// Put these texts into the rows of a table.
function fill(body, rows, kinds) {
  while (body.children.length > rows.length) body.lastChild.remove();
  while (body.children.length < rows.length) {
    const row = body.appendChild(document.createElement("tr"));
    for (const kind of kinds) row.appendChild(document.createElement("td")).className = kind;
  }
  rows.forEach((texts, index) => texts.forEach((text, column) => {
    const cell = body.children[index].children[column];
    if (cell.textContent !== text) cell.textContent = text;
  }));
}

function count(number, noun) {
  return (number === null ? "?" : number.toLocaleString("en")) + " " + noun + (number === 1 ? "" : "s");
}

function span(seconds) {
  if (seconds === null) return "?";
  const [factor, unit] = seconds < 1e-3 ? [1e6, " µs"] : seconds < 1 ? [1e3, " ms"] : [1, " s"];
  return Number((seconds * factor).toPrecision(3)).toLocaleString("en") + unit;
}

function clock(time) {
  return new Date(time * 1000).toLocaleTimeString("en-GB");
}

function showValues(data) {
  if (data.name !== chosen) return;
  $("hint").textContent = data.busy
    ? "The lock is held for writing: waiting for a turn to copy the values."
    : "Press a value to draw it.";
  if (data.busy) return;
  const values = $("values");
  if (data.problem) {
    values.textContent = data.problem;
    return;
  }
  if (values.children.length !== data.values.length) values.replaceChildren(...data.values.map((_, index) => newValue(index)));
  data.values.forEach((value, index) => {
    const text = values.children[index].lastChild;
    if (text.textContent !== value) text.textContent = value;
  });
  history.times.push(data.time);
  history.rows.push(data.values);
  if (history.times.length > POINTS) {
    history.times.shift();
    history.rows.shift();
  }
  draw();
}

function newValue(index) {
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-pressed", drawn.includes(index) ? "true" : "false");
  const label = button.appendChild(document.createElement("small"));
  label.textContent = index;
  button.appendChild(document.createElement("span"));
  button.addEventListener("click", () => {
    drawn = drawn.includes(index) ? drawn.filter((each) => each !== index) : [...drawn, index].slice(-COLOURS.length);
    [...$("values").children].forEach((each, i) => each.setAttribute("aria-pressed", drawn.includes(i) ? "true" : "false"));
    draw();
  });
  return button;
}

// ---- the chart -----------------------------------------------------------------------

function number(text) {
  const value = text === "True" ? 1 : text === "False" ? 0 : Number(text);
  return Number.isFinite(value) ? value : null;
}

function draw() {
  const shown = drawn.filter((index) => history.rows.length && index < history.rows[0].length);
  const data = [history.times, ...shown.map((index) => history.rows.map((row) => number(row[index])))];
  const key = chosen + " " + shown.join() + " " + $("chart").clientWidth + " " + matchMedia("(prefers-color-scheme: dark)").matches;
  if (plot && plot.key === key) return fit(data);
  if (plot) plot.destroy();
  const style = getComputedStyle(document.documentElement);
  const axis = {
    stroke: style.getPropertyValue("--quiet"),
    grid: { stroke: style.getPropertyValue("--line"), width: 1 },
    ticks: { stroke: style.getPropertyValue("--line"), width: 1 },
  };
  const series = shown.map((index, i) => ({ label: "[" + index + "]", stroke: COLOURS[i], width: 2 }));
  const options = {
    width: $("chart").clientWidth,
    height: 220,
    axes: [{ ...axis, values: (_, times) => times.map(clock) }, { ...axis, size: 70 }],
    series: [{ label: "Time", value: (_, time) => (time === null ? "--" : clock(time)) }, ...series],
  };
  plot = new uPlot(options, data, $("chart"));
  plot.key = key;
  fit(data);
}

// The last half minute at least: alone, a first point would stand in a chart of years.
function fit(data) {
  const times = data[0];
  plot.setData(data, false);
  if (times.length) {
    const last = times[times.length - 1];
    plot.setScale("x", { min: Math.min(times[0], last - 30), max: last });
  }
}

addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
connect();
