// Curves of the page as SVG: they follow the width of the window, say values under the pointer,
// and mark the time of the frame that the viewer shows; a click there moves the viewer.
(function () {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg"; // a name, never fetched
  const root = document.documentElement;
  window.addEventListener("error", (event) => { root.dataset.error = event.message; });
  document.addEventListener("securitypolicyviolation", (event) => {
    root.dataset.blocked = event.violatedDirective + " " + event.blockedURI;
  });
  const data = JSON.parse(document.getElementById("data").textContent);
  const charts = [];
  const page = { data: data, seek: null, mark: mark };
  window.eqcalcPage = page;

  function node(name, attributes, parent) {
    const made = document.createElementNS(SVG, name);
    for (const key in attributes) made.setAttribute(key, attributes[key]);
    if (parent) parent.appendChild(made);
    return made;
  }

  function element(name, className, parent, text) {
    const made = document.createElement(name);
    made.className = className;
    if (text !== undefined) made.textContent = text;
    parent.appendChild(made);
    return made;
  }

  // Steps of 1, 2 or 5 times a power of ten, about as many as asked for.
  function ticks(low, high, wanted) {
    const rough = (high - low) / wanted;
    const power = Math.pow(10, Math.floor(Math.log10(rough)));
    const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= rough * 0.999);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) {
      found.push(k * step);
    }
    return { values: found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
  }

  // Of a logarithmic axis: powers of ten, or 1, 2 and 5 times them where there are few.
  function decades(low, high) {
    const found = [], whole = [];
    for (let k = Math.floor(low); k <= high; k++) {
      if (k >= low) whole.push(k);
      for (const factor of [1, 2, 5]) {
        const at = k + Math.log10(factor);
        if (at >= low && at <= high) found.push(at);
      }
    }
    return whole.length > 2 ? whole : found;
  }

  function written(value, digits) {
    if (Math.abs(value) >= 1e6 || digits > 6) return value.toExponential(1).replace("-", "−");
    return value.toFixed(digits).replace("-", "−");
  }

  function logarithmic(exponent) {
    const value = Number(Math.pow(10, exponent).toPrecision(1));
    return value < 0.001 || value > 9999 ? value.toExponential(0).replace("-", "−") : String(value);
  }

  function extent(chart) {
    let [x0, x1, y0, y1] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const curve of chart.curves) {
      for (let k = 0; k < curve.x.length; k++) {
        const y = curve.y[k];
        if (y === null || (chart.log && y <= 0)) continue;
        x0 = Math.min(x0, curve.x[k]); x1 = Math.max(x1, curve.x[k]);
        y0 = Math.min(y0, y); y1 = Math.max(y1, y);
      }
    }
    for (const line of chart.lines) {
      // A goal far from all values would squeeze them; it is shown where it is near.
      const span = y1 - y0 || Math.abs(y1) || 1;
      if (chart.log || (line.y > y0 - span && line.y < y1 + span)) {
        y0 = Math.min(y0, line.y); y1 = Math.max(y1, line.y);
      }
    }
    if (!isFinite(x0)) return null;
    if (chart.top !== null) { y0 = Math.min(y0, 0); y1 = chart.top / 1.05; }
    if (x1 === x0) { x0 -= 0.5; x1 += 0.5; }
    if (chart.log) { y0 = Math.log10(y0); y1 = Math.log10(y1); }
    if (y1 - y0 < 1e-12 * Math.max(1, Math.abs(y1))) {
      const pad = Math.abs(y1) * 0.01 || 1;
      y0 -= pad; y1 += pad;
    }
    const pad = 0.05 * (y1 - y0);
    return { x0: x0, x1: x1, y0: y0 - pad, y1: y1 + pad };
  }

  function build(chart, parent) {
    const card = element("div", "card chart", parent);
    const head = element("div", "head", card);
    const title = element("span", "title", head, chart.title + " ");
    if (chart.unit) element("i", "", title, "(" + chart.unit + ")");
    const keys = element("span", "keys", head);
    const plot = element("div", "plot", card);
    const svg = node("svg", { role: "img", "aria-label": chart.title }, plot);
    const view = { chart: chart, svg: svg, plot: plot, keys: keys, range: extent(chart) };
    charts.push(view);
    explain(view, null);
    svg.addEventListener("pointermove", (event) => hover(view, event));
    svg.addEventListener("pointerleave", () => { explain(view, null); move(view.cross, null); });
    svg.addEventListener("click", (event) => {
      if (page.seek && chart.x === "time (ps)") page.seek(xUnder(view, event));
    });
    draw(view);
  }

  function explain(view, x) {
    view.keys.textContent = "";
    if (x !== null) element("span", "", view.keys, "at " + Number(x.toPrecision(5)));
    for (const curve of view.chart.curves) {
      const alone = view.chart.curves.length === 1;
      if (curve.name === "" && x === null) continue;
      const key = element("span", "", view.keys);
      if (!alone) element("b", "", key).style.background = curve.color + (curve.faint ? "77" : "");
      let text = curve.name;
      if (x !== null) {
        const y = curve.y[nearest(curve.x, x)];
        text += (text ? " " : "") + (y === null ? "–" : Number(y.toPrecision(5)));
      }
      key.appendChild(document.createTextNode(text));
    }
    if (x === null && view.chart.top !== null) element("span", "", view.keys, "bonds cut off");
    if (x === null) {
      for (const line of view.chart.lines) {
        if (line.label) element("span", "", view.keys, "- - " + line.label);
      }
    }
  }

  function nearest(sorted, x) {
    let [low, high] = [0, sorted.length - 1];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (sorted[middle] < x) low = middle; else high = middle;
    }
    return x - sorted[low] < sorted[high] - x ? low : high;
  }

  function draw(view) {
    const { chart, svg, range } = view;
    svg.textContent = "";
    const width = view.plot.clientWidth, height = view.plot.clientHeight;
    if (!range || width < 60) return;
    const yTicks = chart.log ? { values: decades(range.y0, range.y1) }
      : ticks(range.y0, range.y1, Math.max(4, height / 42));
    const labels = yTicks.values.map((y) =>
      chart.log ? logarithmic(y) : written(y, yTicks.digits));
    const left = 14 + 6.6 * Math.max(...labels.map((label) => label.length));
    const box = { left: left, right: width - 10, top: 10, bottom: height - 34 };
    const px = (x) => box.left + (x - range.x0) / (range.x1 - range.x0) * (box.right - box.left);
    const py = (y) => box.bottom - ((chart.log ? Math.log10(y) : y) - range.y0)
      / (range.y1 - range.y0) * (box.bottom - box.top);
    view.px = px; view.box = box;
    svg.setAttribute("viewBox", "0 0 " + width + " " + height);

    yTicks.values.forEach((y, k) => {
      const at = box.bottom - (y - range.y0) / (range.y1 - range.y0) * (box.bottom - box.top);
      node("line", { x1: box.left, x2: box.right, y1: at, y2: at, stroke: "#e8ecf0" }, svg);
      node("text", { x: box.left - 6, y: at + 4, "text-anchor": "end" }, svg)
        .textContent = labels[k];
    });
    const xTicks = ticks(range.x0, range.x1, Math.max(3, width / 110));
    for (const x of xTicks.values) {
      node("line", { x1: px(x), x2: px(x), y1: box.bottom, y2: box.bottom + 4, stroke: "#aab4be" },
        svg);
      node("text", { x: px(x), y: box.bottom + 17, "text-anchor": "middle" }, svg)
        .textContent = written(x, xTicks.digits);
    }
    node("line", { x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom, stroke: "#aab4be" },
      svg);
    node("text", { x: box.right, y: height - 3, "text-anchor": "end" }, svg).textContent = chart.x;

    const clip = "clip" + charts.indexOf(view);
    node("rect", { x: box.left, y: box.top - 1, width: Math.max(1, box.right - box.left),
      height: Math.max(1, box.bottom - box.top + 2) }, node("clipPath", { id: clip }, svg));
    const inside = (y) => y > box.top - 1 && y < box.bottom + 1;
    for (const line of chart.lines) {
      if (!inside(py(line.y))) continue;
      node("line", { x1: box.left, x2: box.right, y1: py(line.y), y2: py(line.y),
        stroke: "#5b6877", "stroke-dasharray": "5 4" }, svg);
    }
    for (const curve of chart.curves) {
      let path = "", pen = "M";
      for (let k = 0; k < curve.x.length; k++) {
        const y = curve.y[k];
        if (y === null || (chart.log && y <= 0)) { pen = "M"; continue; }
        path += pen + px(curve.x[k]).toFixed(1) + " " + py(y).toFixed(1);
        pen = "L";
      }
      node("path", { d: path, fill: "none", stroke: curve.color, "stroke-linejoin": "round",
        "clip-path": "url(#" + clip + ")", "stroke-width": curve.faint ? 0.9 : 1.7, "stroke-opacity": curve.faint ? 0.4 : 1 }, svg);
      if (curve.x.length <= 25) {
        curve.x.forEach((x, k) => {
          if (curve.y[k] !== null && !(chart.log && curve.y[k] <= 0)) {
            node("circle", { cx: px(x), cy: py(curve.y[k]), r: 2.2, fill: curve.color }, svg);
          }
        });
      }
    }
    view.cross = node("line", { y1: box.top, y2: box.bottom, stroke: "#8894a0",
      visibility: "hidden" }, svg);
    view.now = node("line", { y1: box.top, y2: box.bottom, stroke: "#D55E00", "stroke-width": 1.5,
      visibility: "hidden" }, svg);
    if (page.seek && chart.x === "time (ps)") svg.classList.add("seekable");
    move(view.now, position(view, view.time));
  }

  function position(view, time) {
    const { range } = view;
    if (time === undefined || time === null || view.chart.x !== "time (ps)") return null;
    return time < range.x0 || time > range.x1 ? null : view.px(time);
  }

  function move(line, x) {
    if (!line) return;
    line.setAttribute("visibility", x === null ? "hidden" : "visible");
    if (x !== null) { line.setAttribute("x1", x); line.setAttribute("x2", x); }
  }

  function xUnder(view, event) {
    const { box, range } = view;
    const share = (event.clientX - view.svg.getBoundingClientRect().left - box.left)
      / (box.right - box.left);
    return range.x0 + Math.min(1, Math.max(0, share)) * (range.x1 - range.x0);
  }

  function hover(view, event) {
    if (!view.box) return;
    const x = xUnder(view, event);
    explain(view, x);
    move(view.cross, view.px(x));
  }

  function mark(time) {
    for (const view of charts) {
      view.time = time;
      if (view.now) move(view.now, position(view, time));
    }
  }

  // The first two stand beside the structure.
  data.charts.forEach((chart, k) =>
    build(chart, document.getElementById(k < 2 ? "beside" : "charts")));
  let pending = false;
  const redraw = () => {
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => { pending = false; charts.forEach(draw); });
  };
  window.addEventListener("resize", redraw);
  page.redraw = redraw;
  root.dataset.charts = String(charts.filter((v) => v.range).length);
})();
