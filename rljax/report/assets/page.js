"use strict";
// The library and the figures are compressed in the page, which keeps it small; nothing is loaded from elsewhere.
async function unpacked(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

const dark = matchMedia("(prefers-color-scheme: dark)");
const touch = matchMedia("(pointer: coarse)").matches;
const chosen = (id) => document.getElementById(id);
let figures = {};

function template() {
  const css = getComputedStyle(document.documentElement);
  const [ink, soft, line, card] = ["--ink", "--soft", "--line", "--card"].map((name) => css.getPropertyValue(name).trim());
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: soft, tickcolor: soft, automargin: true };
  return {
    layout: {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", colorway: ["#0072B2"],
      font: { color: ink, family: "system-ui, -apple-system, 'Segoe UI', sans-serif", size: 13 },
      xaxis: axis, yaxis: axis, hoverlabel: { bgcolor: card, bordercolor: line, font: { color: ink } },
      legend: { orientation: "h", yref: "container", yanchor: "bottom", y: 0, x: 0 }, margin: { l: 50, r: 16, t: 24, b: 80 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: soft, activecolor: ink },
      hovermode: "closest", dragmode: touch ? false : "zoom", shapedefaults: { line: { color: soft } },
    },
  };
}

// A figure with what the controls have chosen: the x-axis, logarithmic axes, single seeds, and the runs of metrics.
function shown(id) {
  const { data, layout } = figures[id];
  const figure = { data, layout: { ...layout, template: template() } };
  if (!chosen("axis") || !data.some((trace) => trace.meta && trace.meta.axes)) return figure;
  const axis = chosen("axis").value;
  const has = data.every((trace) => axis === "env steps" || axis in trace.meta.axes);
  const boxes = chosen(id).closest(".small") ? document.querySelectorAll(".legend input:not(:checked)") : [];
  const hidden = new Set(Array.from(boxes, (box) => box.value));
  figure.data = data.map((trace) => ({
    ...trace,
    x: has && axis !== "env steps" ? trace.meta.axes[axis] : trace.x,
    visible: !hidden.has(trace.legendgroup) && (!trace.meta.is_seeds || chosen("seeds").checked),
  }));
  const xtype = chosen("log-x").checked ? "log" : "linear";
  const ytype = chosen("log-y").checked && layout.meta.can_be_log ? "log" : "linear";
  figure.layout.xaxis = { ...layout.xaxis, type: xtype, title: { text: has ? axis : "env steps" } };
  figure.layout.yaxis = { ...layout.yaxis, type: ytype };
  return figure;
}

function draw(element) {
  const { data, layout } = shown(element.id);
  const config = {
    responsive: true, displaylogo: false, displayModeBar: touch ? true : "hover",
    modeBarButtonsToRemove: ["sendChartToCloud", "select2d", "lasso2d"],  // the first one would send the data elsewhere
  };
  element.dataset.drawn = "yes";
  Plotly.react(element, data, layout, config);
}

function redraw() {
  document.querySelectorAll(".figure[data-drawn]").forEach(draw);
}

(async function () {
  const script = document.createElement("script");
  script.textContent = await unpacked("plotly");
  document.head.append(script);
  figures = JSON.parse(await unpacked("figures"));
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting && !target.dataset.drawn) draw(target);
    }
  }, { rootMargin: "800px" });
  document.querySelectorAll(".figure").forEach((element) => seen.observe(element));
  dark.addEventListener("change", redraw);
  document.querySelectorAll(".controls select, .controls input").forEach((input) => input.addEventListener("change", redraw));
  document.documentElement.dataset.ready = "yes";
})();
