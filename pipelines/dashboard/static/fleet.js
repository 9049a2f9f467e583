// Draw the figures, tables and lists of the fleet. All texts are set as text, never as HTML.

const number = (value) => value.toLocaleString("en", { maximumFractionDigits: 0 });
const decimal = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const percent = (value) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(1)} %`);
const minute = (text) => (text ? text.slice(0, 16) : "–");

export function element(name, content, title) {
  const made = document.createElement(name);
  made.append(content instanceof Node ? content : String(content));
  if (title) made.title = title;
  return made;
}

function duration(seconds) {
  for (const [length, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= 2 * length) return `${number(seconds / length)} ${unit}`;
  }
  return `${decimal(seconds, seconds < 10 ? 1 : 0)} s`;
}

function milliseconds(ms) {
  return ms >= 10000 ? `${number(ms / 1000)} s` : `${number(ms)} ms`;
}

function table(titles, rows) {
  const made = document.createElement("table");
  const head = document.createElement("tr");
  head.append(...titles.map(([title, help]) => element("th", title, help)));
  made.append(head);
  made.append(...rows.map(tableRow));
  return made;
}

function tableRow(cells) {
  const row = document.createElement("tr");
  row.append(...cells.map((cell) => element("td", cell)));
  return row;
}

function bars(counts, total) {
  const made = table([], counts.map(([name, count]) => [name, number(count)]));
  made.className = "bars";
  counts.forEach(([, count], i) => made.rows[i + 1].style.setProperty("--share", `${total ? (100 * count) / total : 0}%`));
  return made;
}

function line(text) {
  const made = element("p", text);
  made.className = "muted";
  return made;
}

function show(section, ...content) {
  document.querySelector(`#${section} .body`).replaceChildren(...content);
}

function link(id, choose) {
  const button = element("button", id);
  button.addEventListener("click", () => choose(id));
  return button;
}

function drawFigures(fleet) {
  const rows = fleet.rows;
  const inUse = fleet.versions.filter((one) => one.role === "in use");
  const accuracy = inUse.find((one) => one.horizon === 1) ?? inUse[0];
  const latency = fleet.latency_ms;
  const figures = [
    [number(fleet.live), `of ${number(fleet.series)} series are live`],
    [number(rows.rows_in), "rows read"],
    [percent(rows.rows_in ? rows.quarantined / rows.rows_in : null), "of them in quarantine"],
    [number(fleet.alarms.total), fleet.alarms.since ? `alarms since ${minute(fleet.alarms.since)}` : "alarms"],
    [accuracy ? decimal(accuracy.mase) : "–", accuracy ? `MASE at horizon ${accuracy.horizon}; below 1 beats seasonal naive` : "MASE: no actuals yet"],
    [accuracy ? percent(accuracy.coverage) : "–", accuracy ? `of actuals inside the interval at horizon ${accuracy.horizon}` : "coverage: no actuals yet"],
    ...(latency.p99 === undefined ? [] : [[milliseconds(latency.p99), "latency, 99 of 100 batches"]]),
    [minute(fleet.closed_until), "forecasts up to this window end (UTC)"],
  ];
  document.getElementById("figures").replaceChildren(...figures.map(([value, label]) => {
    const made = element("div", element("b", value));
    made.className = "figure";
    made.append(element("span", label));
    return made;
  }));
}

function drawRows(fleet) {
  const rows = fleet.rows;
  const outcomes = ["used", "quarantined", "duplicates", "late", "pending"].map((name) => [name, rows[name]]);
  const late = fleet.lateness_s;
  const lateness = late ? `Lateness of the newest ${number(late.rows)} late rows: median ${duration(late.p50)}, 99 of 100 within ${duration(late.p99)}.` : "";
  show("rows", bars(outcomes, rows.rows_in), line(lateness), line(rows.replaced ? `${number(rows.replaced)} of the duplicates had another value.` : ""));
  const reasons = fleet.quarantine.map((one) => [one.reason, one.rows]);
  show("quarantine", reasons.length ? bars(reasons, rows.quarantined) : line("No row was quarantined."));
}

function drawVersions(fleet) {
  const titles = [
    ["horizon", "number of windows ahead"], ["forecasts", "number of forecasts whose actuals were observed"],
    ["MASE", "mean absolute error, divided by that of seasonal naive; below 1 is better than seasonal naive"],
    ["coverage", "share of actuals inside the outermost quantiles"], ["bias", "mean of actual less median, in the unit of the series"],
  ];
  const made = table(titles, []);
  let last = null;
  for (const one of fleet.versions) {
    if (one.version !== last) made.append(versionRow(one, titles.length));
    last = one.version;
    const mase = element("span", decimal(one.mase));
    mase.className = one.mase === null ? "" : one.mase < 1 ? "good" : "bad";
    made.append(tableRow([one.horizon, number(one.scored), mase, percent(one.coverage), decimal(one.bias)]));
  }
  const isEmpty = !fleet.versions.length;
  show("versions", isEmpty ? line("No actual of a forecast was observed yet.") : made,
    line(isEmpty ? "" : "MASE below 1 is better than seasonal naive."), drift(fleet));
}

// A row with a model version and its role, above the rows of its horizons.
function versionRow(one, columns) {
  const row = tableRow([element("span", one.version)]);
  const tag = element("span", one.role);
  tag.className = `tag ${one.role.replace(" ", "-")}`;
  row.className = "group";
  row.cells[0].colSpan = columns;
  row.cells[0].append(" ", tag);
  return row;
}

function drift(fleet) {
  if (!fleet.drift.length) return line("");
  return table([["input"], ["drift"], ["largest in series"]],
    fleet.drift.map((one) => [one.input, decimal(one.index), one.series_id ? `${one.series_id} (${decimal(one.worst)})` : "–"]));
}

function drawSeriesLists(fleet, choose) {
  const alarms = fleet.alarms;
  const unread = alarms.unread_files ? line(`${number(alarms.unread_files)} earlier files are still being read.`) : line("");
  show("alarms", alarms.series.length
    ? table([["series"], ["alarms"], ["last"]], alarms.series.map((one) => [link(one.series_id, choose), number(one.alarms), minute(one.last)]))
    : line("No alarm was raised."), unread);
  const silent = fleet.silent;
  const first = silent.count > silent.series.length ? `, the longest ${silent.series.length} of ${number(silent.count)}` : "";
  show("silent", silent.series.length
    ? table([["series"], ["windows", "number of windows without a row"], ["last row before"]], silent.series.map((one) => [link(one.series_id, choose), number(one.windows), minute(one.since)]))
    : line(`Every live series has a row in its last ${silent.least_windows} windows.`),
    line(first && `Shown are the silent series${first}.`),
    line(silent.retired ? `${number(silent.retired)} more series have retired after a long gap.` : ""));
}

function drawJob(fleet) {
  const latency = fleet.latency_ms;
  const facts = [
    ["status", fleet.status_text],
    ["model", fleet.models.join(", ") || "–"],
    ["shards", number(fleet.shards)],
    ["windows closed", number(fleet.rows.windows)],
    ["watermark (UTC)", minute(fleet.watermark)],
  ];
  if (fleet.model_notice) facts.push(["note on the model", fleet.model_notice]);
  if (fleet.status === "running" && fleet.watermark_lag_s !== null) facts.push(["watermark behind the clock", duration(fleet.watermark_lag_s)]);
  if (latency.p50 !== undefined) facts.push(["latency of a batch: median, 99 of 100", `${milliseconds(latency.p50)}, ${milliseconds(latency.p99)}`]);
  show("job", table([], facts));
}

export function drawFleet(fleet, choose) {
  document.getElementById("output").textContent = fleet.output;
  const status = document.getElementById("status");
  status.textContent = fleet.status;
  status.title = fleet.status_text;
  status.className = `pill ${fleet.status.replace(" ", "-")}`;
  document.getElementById("read-at").textContent = `read at ${fleet.read_at} UTC`;
  drawFigures(fleet);
  drawRows(fleet);
  drawVersions(fleet);
  drawSeriesLists(fleet, choose);
  drawJob(fleet);
}
