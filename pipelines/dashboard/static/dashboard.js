// Load the fleet and one series, draw them, and load them again every few seconds while the page is visible.
import { drawSeries } from "./series_chart.js";
import { drawFleet, element } from "./fleet.js";

const REFRESH_MS = 3000;
const $ = (id) => document.getElementById(id);
const SPANS = [["1 day", 1], ["3 days", 3], ["7 days", 7], ["all", null]];
let chosen = readHash();
let days = 7;
let series = null;
let searches = 0;

function readHash() {
  return decodeURIComponent(location.hash.replace(/^#/, "")) || null;
}

async function load(path) {
  const answer = await fetch(path);
  const body = await answer.json();
  if (!answer.ok && !body.notes) throw new Error(`${answer.status} ${answer.statusText}`);
  return body;
}

function showNotes(notes) {
  $("notes").replaceChildren(...notes.map((note) => element("li", note)));
  $("notes").hidden = !notes.length;
}

async function refresh() {
  try {
    const fleet = await load("api/fleet");
    if (fleet.rows) {
      drawFleet(fleet, choose);
      const absent = fleet.status === "absent" ? [fleet.status_text] : [];
      showNotes([...absent, ...fleet.notes]);
    } else {
      showNotes(fleet.notes);
    }
    if (!chosen) await chooseFirst(fleet);
    if (chosen) await loadSeries();
    else showEmpty("There is no series yet. A series appears with the first snapshot of a job.");
  } catch (error) {
    $("status").textContent = "away";
    $("status").className = "pill away";
    showNotes([`The command "statecast dashboard" does not answer (${error.message}); the page shows what it read last.`]);
  }
}

async function chooseFirst(fleet) {
  const alarmed = fleet.alarms?.series[0]?.series_id;
  const first = alarmed ?? (await load("api/series")).ids[0];
  if (first) chosen = first;
}

async function loadSeries() {
  const wanted = chosen;
  const found = await load(`api/one?series_id=${encodeURIComponent(wanted)}`);
  if (wanted !== chosen) return;
  $("series-id").textContent = wanted;
  $("series-notes").textContent = found.notes.join("; ");
  if (!found.time) return;
  if (!found.time.length && !found.fans.length && !found.shadow_fans.length) {
    series = null;
    showEmpty("The folder has no value and no forecast of this series.");
    return;
  }
  $("chart").hidden = false;
  $("chart-empty").hidden = true;
  const text = JSON.stringify(found);
  if (series?.text !== text) {
    series = { text, found };
    drawSeries($("chart"), found, days);
  }
}

function showEmpty(text) {
  $("chart").hidden = true;
  $("chart-empty").hidden = false;
  $("chart-empty").textContent = text;
}

function choose(id) {
  chosen = id;
  history.replaceState(null, "", `#${encodeURIComponent(id)}`);
  $("found").hidden = true;
  $("search").value = "";
  loadSeries().catch(refresh);
}

async function search() {
  const mine = ++searches;
  const found = await load(`api/series?q=${encodeURIComponent($("search").value)}`);
  if (mine !== searches) return;
  const items = found.ids.map((id) => {
    const button = element("button", id);
    button.addEventListener("click", () => choose(id));
    return element("li", button);
  });
  const shown = found.ids.length < found.matching ? `, the first ${found.ids.length} are shown` : "";
  const line = element("li", `${found.matching.toLocaleString("en")} of ${found.of.toLocaleString("en")} series${shown}`);
  line.className = "muted";
  $("found").replaceChildren(line, ...items);
  $("found").hidden = false;
}

for (const [name, length] of SPANS) {
  const button = element("button", name);
  button.setAttribute("aria-pressed", String(length === days));
  button.addEventListener("click", () => {
    days = length;
    for (const one of $("spans").children) one.setAttribute("aria-pressed", String(one === button));
    if (series) drawSeries($("chart"), series.found, days);
  });
  $("spans").append(button);
}
$("search").addEventListener("input", () => search().catch(refresh));
$("search").addEventListener("focus", () => search().catch(refresh));
$("search").addEventListener("keydown", (event) => {
  if (event.key === "Enter") $("found").querySelector("button")?.click();
  if (event.key === "Escape") $("found").hidden = true;
});
document.addEventListener("click", (event) => {
  if (!event.target.closest(".search")) $("found").hidden = true;
});
window.addEventListener("hashchange", () => { chosen = readHash() ?? chosen; loadSeries().catch(refresh); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  if (series) drawSeries($("chart"), series.found, days);
});

async function keepFresh() {
  if (!document.hidden) await refresh();
  setTimeout(keepFresh, REFRESH_MS);
}
keepFresh();
