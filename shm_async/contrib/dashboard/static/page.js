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

function connect() {
  if (source) source.close();
  source = new EventSource("events" + (chosen ? "?region=" + encodeURIComponent(chosen) : ""));
  source.onopen = () => tell("live", false);
  source.onerror = () => {
    tell("connection lost: trying again", true);
    if (source.readyState === EventSource.CLOSED) setTimeout(connect, 1000);
  };
  source.addEventListener("regions", (event) => showRegions(JSON.parse(event.data)));
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
  $("values").replaceChildren();
  connect();
}

// ---- the table ---------------------------------------------------------------------

function showRegions(regions) {
  if (!chosen && regions.length) return choose(regions[0].name);
  const rows = new Map([...$("regions").children].map((row) => [row.dataset.name, row]));
  regions.forEach((region, index) => {
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
  const dead = regions.filter((region) => region.died).map((region) => region.name);
  const text = dead.length ? "A process died while it held the lock of " + dead.join(", ") + " for writing: the data may be half-written." : "";
  if ($("banner").textContent !== text) $("banner").textContent = text;
  $("banner").hidden = !dead.length;
  const mine = regions.find((region) => region.name === chosen);
  $("detail").hidden = !mine;
  if (mine) showFacts(mine);
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

function showFacts(region) {
  $("name").textContent = region.name;
  $("facts").textContent = region.type + ", " + region.bytes.toLocaleString("en") + " bytes, generation " +
    region.generation + ", attached " + region.attached + " times";
  const waits = region.waits;
  $("waits").hidden = !waits;
  if (!waits) return;
  const most = Math.max(1, ...waits.counts);
  while ($("bars").children.length < waits.counts.length) $("bars").appendChild(document.createElement("div"));
  const texts = waits.counts.map((count, index) => {
    const bar = $("bars").children[index];
    bar.style.height = (100 * count) / most + "%";
    const bound = waits.bounds[index];
    bar.title = count + (count === 1 ? " wait " : " waits ") + (bound === undefined ? "longer than all" : "up to " + bound + " s");
    return count ? bar.title : "";
  }).filter(Boolean);
  $("waits-text").textContent = texts.join("; ") || "nobody had to wait";
  $("bars").setAttribute("aria-label", $("waits-text").textContent);
}

function showValues(data) {
  if (data.name !== chosen) return;
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
  const options = { width: $("chart").clientWidth, height: 220, axes: [axis, { ...axis, size: 70 }], series: [{}, ...series] };
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
