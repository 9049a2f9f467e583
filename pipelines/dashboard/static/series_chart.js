// Draw the values, forecast fans and alarms of one series with Plotly.

const DAY_MS = 86_400_000;
const NARROW_PX = 520; // a chart this narrow has no room for a long legend

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function faded(hex, alpha) {
  return hex + Math.round(alpha * 255).toString(16).padStart(2, "0");
}

// The quantile columns, such as q5, q50 and q95, by level.
function levels(quantiles) {
  return Object.keys(quantiles).sort((a, b) => parseFloat(a.slice(1)) - parseFloat(b.slice(1)));
}

// The styles of forecasts: of the version in use, and of a shadow.
const IN_USE = { label: "forecast", colour: "accent", dash: "solid", earlier: "dot", fill: 0.16 };
const SHADOW = { label: "shadow's forecast", colour: "shadow", dash: "dash", earlier: "dash", fill: 0.07 };

function fanTraces(fan, age, isNarrow, style) {
  const names = levels(fan.quantiles);
  const strength = [1, 0.55, 0.35][age] ?? 0.3;
  const accent = colour(style.colour);
  const group = `${style.label} of ${fan.issued_at.slice(0, 16)}`;
  const traces = [];
  for (let i = 0; i < Math.floor(names.length / 2); i++) {
    const [low, high] = [names[i], names[names.length - 1 - i]];
    const edge = { x: fan.time, mode: "lines", line: { width: 0 }, hoverinfo: "skip", legendgroup: group, showlegend: false };
    traces.push({ ...edge, y: fan.quantiles[low] });
    traces.push({ ...edge, y: fan.quantiles[high], fill: "tonexty", fillcolor: faded(accent, style.fill * strength) });
  }
  const middle = names.includes("q50") ? "q50" : names[Math.floor(names.length / 2)];
  const range = fan.time.map((_, i) => [fan.quantiles[names[0]][i], fan.quantiles[names.at(-1)][i]]);
  traces.push({
    showlegend: age === 0 || (!isNarrow && style === IN_USE), x: fan.time, y: fan.quantiles[middle], customdata: range, mode: "lines", name: group, legendgroup: group,
    line: { color: faded(accent, strength), width: 1.8, dash: age ? style.earlier : style.dash },
    hovertemplate: `%{y:.4~g} (%{customdata[0]:.4~g} to %{customdata[1]:.4~g})<extra>${style === SHADOW ? "shadow " : ""}${escapeText(fan.model_version)}</extra>`,
  });
  return traces;
}

// Plotly reads some HTML in texts, and a model version is a text from a file.
function escapeText(text) {
  return text.replace(/[<>&%{}]/g, " ");
}

// Show a gap where windows have no value: Plotly breaks a line at null.
function withGaps(found) {
  const x = [], y = [];
  const step = (found.window_s ?? 0) * 1500;
  found.time.forEach((at, i) => {
    if (i && step && Date.parse(at) - Date.parse(found.time[i - 1]) > step) { x.push(at); y.push(null); }
    x.push(at); y.push(found.value[i]);
  });
  return { x, y };
}

function allFans(found) {
  return [...found.fans, ...found.shadow_fans];
}

function span(found, days) {
  const every = [...found.time, ...allFans(found).flatMap((fan) => fan.time)].sort();
  if (!every.length || days === null) return undefined;
  const newest = found.time.at(-1) ?? every[0];
  const begin = new Date(Date.parse(`${newest.replace(" ", "T")}Z`) - days * DAY_MS).toISOString().slice(0, 19).replace("T", " ");
  return [begin > every[0] ? begin : every[0], every.at(-1)];
}

function highest(found, range) {
  const inside = (at) => !range || (at >= range[0] && at <= range[1]);
  const seen = found.value.filter((_, i) => inside(found.time[i]));
  for (const fan of allFans(found)) for (const values of Object.values(fan.quantiles)) {
    seen.push(...values.filter((_, i) => inside(fan.time[i])));
  }
  if (!seen.length) return undefined;
  const [low, high] = [Math.min(...seen), Math.max(...seen)];
  const margin = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - margin, high + margin];
}

export function drawSeries(chart, found, days) {
  const valueAt = new Map(found.time.map((at, i) => [at, found.value[i]]));
  const alarms = found.alarms.filter((alarm) => valueAt.has(alarm.time));
  const range = span(found, days), isNarrow = chart.clientWidth < NARROW_PX;
  const axis = { gridcolor: colour("grid"), linecolor: colour("line"), zeroline: false, automargin: true };
  const traces = [
    ...found.fans.map((fan, age) => fanTraces(fan, age, isNarrow, IN_USE)).reverse().flat(),
    ...found.shadow_fans.map((fan, age) => fanTraces(fan, age, isNarrow, SHADOW)).reverse().flat(),
    { ...withGaps(found), mode: "lines", name: "value", line: { color: colour("text"), width: 1.6 }, hovertemplate: "%{y:.6~g}<extra></extra>" },
    {
      x: alarms.map((alarm) => alarm.time), y: alarms.map((alarm) => valueAt.get(alarm.time)), mode: "markers", name: "alarm",
      customdata: alarms.map((alarm) => alarm.p_value), marker: { color: colour("alarm"), size: 10, symbol: "circle-open", line: { width: 2.5 } },
      hovertemplate: "alarm: %{y:.6~g}, p-value %{customdata:.2~g}<extra></extra>", showlegend: alarms.length > 0,
    },
  ];
  const issued = found.fans[0]?.issued_at;
  const layout = {
    margin: { l: 48, r: 12, t: 8, b: 36 }, paper_bgcolor: "transparent", plot_bgcolor: "transparent",
    font: { color: colour("text"), family: "system-ui, sans-serif", size: 12 }, hovermode: "x unified",
    hoverlabel: { bgcolor: colour("card"), bordercolor: colour("line") },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom" },
    xaxis: { ...axis, type: "date", range, title: { text: "UTC", font: { size: 11, color: colour("muted") }, standoff: 4 }, hoverformat: "%Y-%m-%d %H:%M" }, yaxis: { ...axis, range: highest(found, range) },
    shapes: issued ? [{ type: "line", x0: issued, x1: issued, y0: 0, y1: 1, yref: "paper", line: { color: colour("muted"), width: 1, dash: "dot" } }] : [],
    uirevision: `${found.series_id}|${days}`,
  };
  Plotly.react(chart, traces, layout, {
    responsive: true, displayModeBar: false, // its buttons cover the legend, and one offers to upload the data
  });
}
