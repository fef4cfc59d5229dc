// Charts by uPlot (vendored, MIT): made once, fed afterwards, redrawn when the theme or the width changes.
"use strict";
const Charts = (() => {
  const made = new Map();
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const palette = () => ({ink: colour("--ink"), line: colour("--line"), main: colour("--accent"), warn: colour("--warn"),
    quiet: colour("--quiet")});
  const short = (value) => value == null ? "–" : Math.abs(value) >= 1e6 ? (value / 1e6).toPrecision(3) + "M"
    : Math.abs(value) >= 1e4 ? (value / 1e3).toPrecision(3) + "k" : String(Number(value.toPrecision(4)));

  function options(node, series, relative) {
    const c = palette();
    const axis = {stroke: c.ink, grid: {stroke: c.line, width: 1}, ticks: {stroke: c.line, width: 1}};
    const stepped = uPlot.paths.stepped({align: 1});
    return {
      width: Math.max(280, node.clientWidth - 2), height: 220, cursor: {drag: {x: true, y: false}},
      scales: {x: {time: !relative}, y: {range: (_u, low, high) => [0, high > 0 ? high * 1.08 : 1]}},
      axes: [relative ? {...axis, values: (_u, ticks) => ticks.map((t) => (t / 3600).toFixed(1) + " h")} : axis,
        {...axis, size: 56, values: (_u, ticks) => ticks.map(short)}],
      series: [{}, ...series.map((one) => ({
        label: one.label, stroke: c[one.colour], width: one.width || 1.6, dash: one.dash, fill: one.fill ? c[one.colour] + "22" : one.band ? c[one.colour] + "33" : undefined,
        paths: one.stepped ? stepped : undefined, points: {show: false}, spanGaps: false,
        value: (_u, value) => short(value)}))],
    };
  }

  function draw(id, series, data, relative = false) {
    const node = document.getElementById(id);
    const shape = JSON.stringify([series, relative, document.documentElement.dataset.theme]);
    let chart = made.get(id);
    if (chart && chart.shape === shape) { chart.plot.setData(data); chart.data = data; return; }
    if (chart) chart.plot.destroy();
    chart = {shape, series, data, relative, plot: new uPlot(options(node, series, relative), data, node)};
    made.set(id, chart);
  }

  function again() {
    for (const [id, chart] of [...made]) {
      chart.plot.destroy();
      made.delete(id);
      draw(id, chart.series, chart.data, chart.relative);
    }
  }

  let waiting = 0;
  addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(again, 150); });
  return {draw, again, short};
})();
