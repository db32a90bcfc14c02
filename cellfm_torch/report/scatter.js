// The picture of cells that answers: colour by a column, filter by type, hover for a cell. Draws with Plotly.
(function () {
  "use strict";
  const given = JSON.parse(document.getElementById("cells-data").textContent);
  const plot = document.getElementById("cells");
  const choice = document.getElementById("colour");
  const shown = document.getElementById("shown");
  const boxes = Array.from(document.querySelectorAll("#types input"));

  function decode(text, kind) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    return new kind(bytes.buffer);
  }
  // Plotly reads some HTML in hover texts and legends.
  function plain(text) {
    return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  }

  const x = decode(given.x, Float32Array);
  const y = decode(given.y, Float32Array);
  const fields = given.fields.map(function (field) {
    const values = field.kind === "number" ? decode(field.values, Float32Array) : decode(field.codes, Uint16Array);
    return Object.assign({}, field, { values: values });
  });
  const types = fields[given.filter];
  const colours = given.palette;
  const marks = ["circle", "triangle-up", "square", "diamond", "triangle-down"];
  const canvas = document.createElement("canvas");
  const fast = Boolean(canvas.getContext("webgl2") || canvas.getContext("webgl"));

  function word(field, i) {
    const value = field.values[i];
    if (field.kind === "number") return Number.isFinite(value) ? value.toFixed(3) : "none";
    return field.names[value];
  }
  function describe(i) {
    const lines = ["<b>" + plain(given.names[i]) + "</b>"];
    for (const field of fields) lines.push(plain(field.label) + ": " + plain(word(field, i)));
    return lines.join("<br>");
  }
  function span(values) {
    let low = Infinity, high = -Infinity;
    for (const value of values) { if (value < low) low = value; if (value > high) high = value; }
    const room = 0.04 * (high - low) || 1;
    return [low - room, high + room];
  }
  const ranges = [span(x), span(y)];
  const size = Math.max(2.5, Math.min(8, 400 / Math.sqrt(Math.max(x.length, 1))));

  function trace(rows, marker, name) {
    return {
      type: fast ? "scattergl" : "scatter", mode: "markers", name: name,
      x: rows.map((i) => x[i]), y: rows.map((i) => y[i]), text: rows.map(describe), hoverinfo: "text",
      marker: Object.assign({ size: size, opacity: 0.85 }, marker),
    };
  }
  function traces(field, rows) {
    if (field.kind === "number") {
      const marker = { color: rows.map((i) => field.values[i]), colorscale: "Viridis", cmin: field.low, cmax: field.high,
        colorbar: { thickness: 12, len: 0.6, title: { text: plain(field.label), side: "right" } } };
      return [Object.assign(trace(rows, marker, field.label), { showlegend: false })];
    }
    const of = field.names.map(() => []);
    for (const i of rows) of[field.values[i]].push(i);
    const found = [];
    of.forEach(function (members, code) {
      if (!members.length) return;
      const grey = field.grey.includes(code);
      const place = code - field.grey.filter((other) => other < code).length;
      const marker = grey ? { color: "#c8c8c8" } : {
        color: colours[place % colours.length],
        symbol: marks[Math.floor(place / colours.length) % marks.length],
      };
      const one = trace(members, marker, plain(field.names[code]) + " (" + members.length.toLocaleString("en") + ")");
      if (grey) found.unshift(one); else found.push(one);
    });
    return found;
  }
  function draw() {
    const wanted = new Set(boxes.filter((box) => box.checked).map((box) => Number(box.value)));
    const rows = [];
    for (let i = 0; i < x.length; i++) if (wanted.has(types.values[i])) rows.push(i);
    const field = fields[Number(choice.value)];
    const narrow = window.innerWidth < 700;
    const axis = { showgrid: false, zeroline: false, showticklabels: false, ticks: "", showline: true, linecolor: "#888" };
    const legend = narrow ? { orientation: "h", y: -0.12, itemsizing: "constant", font: { size: 11 } }
      : { itemsizing: "constant", font: { size: 12 } };
    const layout = {
      margin: { l: 30, r: 10, t: 36, b: 30 }, hovermode: "closest", paper_bgcolor: "white", plot_bgcolor: "white",
      xaxis: Object.assign({ range: ranges[0].slice(), title: { text: "UMAP 1" } }, axis),
      yaxis: Object.assign({ range: ranges[1].slice(), title: { text: "UMAP 2" } }, axis),
      legend: legend, showlegend: field.kind !== "number", uirevision: "cells",
    };
    shown.textContent = rows.length.toLocaleString("en") + " of " + x.length.toLocaleString("en") + " cells shown";
    // No button that would send data anywhere.
    const buttons = [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]];
    const options = { responsive: true, displaylogo: false, modeBarButtons: buttons };
    return Plotly.react(plot, traces(field, rows), layout, options);
  }
  function setAll(state) {
    boxes.forEach((box) => { box.checked = state; });
    draw();
  }
  choice.addEventListener("change", draw);
  boxes.forEach((box) => box.addEventListener("change", draw));
  document.getElementById("all-types").addEventListener("click", () => setAll(true));
  document.getElementById("no-types").addEventListener("click", () => setAll(false));
  draw();
})();
