"use strict";
// One page of what detectors do with pictures. Data is what sap_detr.visualization.page wrote;
// coordinates are fractions of the picture. `viewer` is for scripts: see the end.

const data = JSON.parse(document.getElementById("data").textContent);
const state = { picture: null, layer: 0, head: 0, place: null, chosen: [] };
const OVERLAYS = {
  attention: "attention",
  samples: "samples of the memory",
  box: "box",
  way: "way of the point",
  cell: "cell and sides",
  gaussians: "Gaussians",
  salient: "salient points",
  queries: "queries that it reads",
  encoder: "samples of the encoder from the place (blue)",
};
const HEAT = [[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]];
const LINES = 12, STRONGEST = 8, NEAR = 5;
const shown = new Set(["attention", "samples", "box", "way", "cell", "gaussians", "salient", "encoder"]);
const decoded = new Map();
const panels = [];
let changed = false, showing = null, wanted = 0;
const $ = (selector, parent = document) => parent.querySelector(selector);

// ---- numbers --------------------------------------------------------------------------------

async function decode(packed) {
  if (!packed) return null;
  if (!decoded.has(packed)) decoded.set(packed, unpack(packed));
  return decoded.get(packed);
}

// Bytes of equal rank stand together, and are deflated; weights are whole multiples of `unit`.
async function unpack({ shape, bytes, unit, data: text }) {
  const packed = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  const size = shape.reduce((a, b) => a * b, 1), wide = unit ? 4 : bytes;
  const whole = new Uint8Array(size * wide);
  for (let rank = 0; rank < bytes; rank++)
    for (let i = 0; i < size; i++) whole[i * wide + rank] = planes[rank * size + i];
  if (!unit) return { shape, values: new Float32Array(whole.buffer) };
  return { shape, values: Float64Array.from(new Uint32Array(whole.buffer), (x) => x * unit) };
}

// A part of an array (..., n): what stands at the leading indices.
function part(array, ...indices) {
  let offset = 0, size = array.values.length;
  indices.forEach((index, axis) => { size /= array.shape[axis]; offset += index * size; });
  return array.values.subarray(offset, offset + size);
}

function mean(rows) {
  const sum = new Float64Array(rows[0].length);
  for (const row of rows) for (let i = 0; i < sum.length; i++) sum[i] += row[i] / rows.length;
  return sum;
}

const headsOf = (count) => (state.head ? [Math.min(state.head, count) - 1] : [...Array(count).keys()]);
const percent = (x) => `${(100 * x).toFixed(1)} %`;
const layerOf = (view) => Math.min(state.layer, view.layers - 1);
const sumOf = (weights) => weights.reduce((a, b) => a + b, 0);

// ---- what a panel shows ---------------------------------------------------------------------

// All arrays of a picture and model that are of all queries.
async function load(view) {
  const names = ["scores", "classes", "boxes", "points", "entering_points", "entering_boxes", "cells"];
  names.push("centres", "spreads", "salient");
  const entries = await Promise.all(names.map(async (name) => [name, await decode(view[name])]));
  return Object.fromEntries(entries);
}

// The weights of a kept query in the layer and head that are chosen; null where none are kept.
async function weightsOf(view, query) {
  const kept = view.kept[query];
  if (!kept) return null;
  const layer = layerOf(view);
  if (kept.attention) {
    const maps = await decode(kept.attention[layer]);
    const [heads, rows, columns] = maps.shape;
    const values = mean(headsOf(heads).map((head) => part(maps, head)));
    const places = (i) => [((i % columns) + 0.5) / columns, (Math.floor(i / columns) + 0.5) / rows];
    return { values, rows, columns, places, level: () => view.read_levels[layer] };
  }
  const weights = await decode(kept.weights), where = await decode(kept.places);
  const heads = headsOf(weights.shape[1]), values = [], places = [], levels = [];
  for (const head of heads) {
    const of_head = part(weights, layer, head), at = part(where, layer, head);
    of_head.forEach((weight, i) => {
      values.push(weight / heads.length);
      places.push([at[2 * i], at[2 * i + 1]]);
      levels.push(view.sample_levels[i]);
    });
  }
  return { values, places: (i) => places[i], level: (i) => levels[i] };
}

async function readOf(view, query) {
  const kept = view.kept[query];
  if (!kept) return null;
  const all = await decode(kept.self_attention);
  return mean(headsOf(all.shape[1]).map((head) => part(all, layerOf(view), head)));
}

// Where a query is when it enters the layer, as far as the method knows.
function anchor(arrays, layer, query) {
  if (arrays.entering_points) return [...part(arrays.entering_points, layer, query)];
  const [x0, y0, x1, y1] = part(arrays.entering_boxes || arrays.boxes, layer, query);
  return [(x0 + x1) / 2, (y0 + y1) / 2];
}

function finalPlace(view, arrays, query) {
  if (arrays.points) return [...part(arrays.points, view.layers - 1, query)];
  const [x0, y0, x1, y1] = part(arrays.boxes, view.layers - 1, query);
  return [(x0 + x1) / 2, (y0 + y1) / 2];
}

function distance(picture, a, b) {
  return Math.hypot((a[0] - b[0]) * picture.width, (a[1] - b[1]) * picture.height);
}

function overlap(a, b) {
  const width = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
  const height = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
  const both = Math.max(0, width) * Math.max(0, height);
  const area = (box) => (box[2] - box[0]) * (box[3] - box[1]);
  return both / (area(a) + area(b) - both);
}

function nearest(view, arrays, place, queries) {
  const picture = data.pictures[state.picture];
  return queries
    .map((query) => [distance(picture, place, finalPlace(view, arrays, query)), query])
    .sort((a, b) => a[0] - b[0])
    .map(([, query]) => query);
}

// ---- drawing --------------------------------------------------------------------------------

function heat(strength) {
  const at = Math.max(0, Math.min(1, strength)) * (HEAT.length - 1);
  const low = Math.min(Math.floor(at), HEAT.length - 2), share = at - low;
  return HEAT[low].map((x, i) => Math.round(x + share * (HEAT[low + 1][i] - x)));
}

class Pen {
  constructor(canvas) {
    const ratio = window.devicePixelRatio || 1, box = canvas.getBoundingClientRect();
    canvas.width = Math.round(box.width * ratio);
    canvas.height = Math.round(box.height * ratio);
    this.context = canvas.getContext("2d");
    this.width = canvas.width;
    this.height = canvas.height;
    this.unit = ratio * Math.max(1, box.width / 700);
  }
  at([x, y]) { return [x * this.width, y * this.height]; }
  stroke(path, color, width) {
    for (const [style, extra] of [["rgba(0,0,0,.7)", 2], [color, 0]]) {
      this.context.strokeStyle = style;
      this.context.lineWidth = (width + extra) * this.unit;
      this.context.stroke(path);
    }
  }
  line(points, color, width) {
    const path = new Path2D();
    points.forEach((p, i) => (i ? path.lineTo(...this.at(p)) : path.moveTo(...this.at(p))));
    this.stroke(path, color, width);
  }
  box([x0, y0, x1, y1], color, width) {
    const path = new Path2D();
    path.rect(x0 * this.width, y0 * this.height, (x1 - x0) * this.width, (y1 - y0) * this.height);
    this.stroke(path, color, width);
  }
  dot(place, radius, color, rim = "rgba(0,0,0,.8)") {
    const { context } = this;
    context.beginPath();
    context.arc(...this.at(place), radius * this.unit, 0, 2 * Math.PI);
    context.fillStyle = color;
    context.fill();
    context.lineWidth = this.unit;
    context.strokeStyle = rim;
    context.stroke();
  }
  ellipse(place, [x, y], color) {
    const path = new Path2D();
    path.ellipse(...this.at(place), x * this.width, y * this.height, 0, 0, 2 * Math.PI);
    this.stroke(path, color, 1.2);
  }
  map({ values, rows, columns }) {
    const small = new OffscreenCanvas(columns, rows), pixels = new ImageData(columns, rows);
    const most = values.reduce((a, b) => Math.max(a, b), 1e-12);
    values.forEach((weight, i) => {
      const strength = weight / most;
      pixels.data.set([...heat(0.2 + 0.8 * strength), 230 * strength ** 0.6], 4 * i);
    });
    small.getContext("2d").putImageData(pixels, 0, 0);
    this.context.fillStyle = "rgba(60,60,60,.45)";
    this.context.fillRect(0, 0, this.width, this.height);
    this.context.imageSmoothingEnabled = false;
    this.context.drawImage(small, 0, 0, this.width, this.height);
  }
  samples(values, places, paint = (strength) => `rgb(${heat(0.3 + 0.7 * strength)})`) {
    const most = values.reduce((a, b) => Math.max(a, b), 1e-12);
    const order = [...values.keys()].sort((a, b) => values[a] - values[b]);
    for (const i of order) {
      const strength = values[i] / most;
      this.dot(places(i), 1.5 + 3.5 * strength, paint(strength));
    }
  }
}

function draw(panel) {
  const { view, arrays, query } = panel, pen = new Pen(panel.canvas), layer = layerOf(view);
  const color = `rgb(${data.models[panel.index].colors[part(arrays.classes, view.layers - 1)[query]]})`;
  const weights = panel.weights, has = (name) => shown.has(name);
  if (weights && weights.columns && has("attention")) pen.map(weights);
  if (weights && !weights.columns && has("samples")) pen.samples(weights.values, weights.places);
  const from = anchor(arrays, layer, query);
  if (panel.read && has("queries")) {
    const others = strongest(panel.read, LINES + 1).filter((other) => other !== query).slice(0, LINES);
    const most = panel.read[others[0]];
    for (const other of others.reverse()) {
      const to = anchor(arrays, layer, other);
      pen.line([from, to], "#7fe3ff", 0.5 + (3 * panel.read[other]) / most);
      pen.dot(to, 2.5, "#7fe3ff");
    }
  }
  if (arrays.cells && has("cell")) pen.box(part(arrays.cells, query), "#fff", 1);
  if (has("box")) {
    if (arrays.entering_boxes) pen.box(part(arrays.entering_boxes, layer, query), "#fff", 1.2);
    pen.box(part(arrays.boxes, layer, query), color, 2.5);
  }
  if (arrays.entering_points && has("cell")) {
    const [x0, y0, x1, y1] = part(arrays.entering_boxes, layer, query), [x, y] = from;
    for (const side of [[x0, y], [x1, y], [x, y0], [x, y1]]) pen.line([from, side], "#fff", 1);
  }
  if (has("way")) {
    const way = [...Array(view.layers).keys()].map((i) =>
      arrays.points ? [...part(arrays.points, i, query)] : anchor({ boxes: arrays.boxes }, i, query));
    if (arrays.entering_points) way.unshift([...part(arrays.entering_points, 0, query)]);
    pen.line(way, color, 1.5);
    const first = way.length - view.layers;
    way.forEach((p, i) => pen.dot(p, i - first === layer ? 5 : 2.5, i < first ? "#fff" : color, "#fff"));
  }
  for (const [name, paint] of [["salient", "#b5ff5c"], ["centres", "#fff"]]) {
    const places = arrays[name];
    if (!places || !has(name === "centres" ? "gaussians" : name)) continue;
    for (const head of headsOf(places.shape[1])) {
      const place = part(places, layer, head, query);
      if (name === "centres") pen.ellipse(place, part(arrays.spreads, layer, head, query), paint);
      pen.dot(place, 3, paint);
    }
  }
  if (state.place) {
    const cold = (strength) => `hsl(190 90% ${Math.round(25 + 60 * strength)}%)`;
    if (panel.encoder && has("encoder")) pen.samples(panel.encoder.values, panel.encoder.places, cold);
    const [x, y] = state.place, arm = 0.02;
    pen.line([[x - arm, y], [x + arm, y]], "#ff0", 1.5);
    pen.line([[x, y - arm], [x, y + arm]], "#ff0", 1.5);
  }
}

// ---- text -----------------------------------------------------------------------------------

const strongest = (values, count) =>
  [...values.keys()].sort((a, b) => values[b] - values[a]).slice(0, count);

function className(panel, number) {
  const name = data.models[panel.index].classes[number];
  return name === null || name === undefined ? `class ${number}` : name;
}

function chip(panel, query, number, score, extra = "") {
  const item = document.createElement("li"), button = document.createElement("button");
  button.type = "button";
  button.textContent = `${className(panel, number)} ${score.toFixed(2)}${extra}`;
  button.style.setProperty("--color", `rgb(${data.models[panel.index].colors[number]})`);
  button.setAttribute("aria-pressed", String(query === panel.query));
  button.dataset.query = query;
  button.addEventListener("click", () => choose(panel, query));
  item.append(button);
  return item;
}

function queryChip(panel, query, extra) {
  const last = panel.view.layers - 1;
  const number = part(panel.arrays.classes, last)[query], score = part(panel.arrays.scores, last)[query];
  return chip(panel, query, number, score, `, query ${query}${extra}`);
}

function cells(row, texts) {
  for (const text of texts) row.append(Object.assign(document.createElement("td"), { textContent: text }));
  return row;
}

function pixels(values) {
  const { width, height } = data.pictures[state.picture];
  return [...values].map((x, i) => (x * (i % 2 ? height : width)).toFixed(1)).join(", ");
}

function write(panel) {
  const { view, arrays, query, weights, root } = panel, layer = layerOf(view);
  const number = part(arrays.classes, layer)[query], score = part(arrays.scores, layer)[query];
  const kept = weights
    ? `sum of the weights ${sumOf(weights.values).toFixed(6)}`
    : "its attention is not kept in this page";
  const box = pixels(part(arrays.boxes, layer, query));
  const text = `Query ${query}, layer ${layer + 1} of ${view.layers}, ${headName(view)}: ` +
    `${className(panel, number)} ${score.toFixed(3)}, box ${box}; ${kept}.`;
  $(".status", root).textContent = text;
  panel.canvas.setAttribute("aria-label", text);
  $(".detections", root).replaceChildren(
    ...view.detected.map(([q, c, s]) => chip(panel, q, c, s)));
  $(".none", root).hidden = view.detected.length > 0;
  const rows = [...Array(view.layers).keys()].map((i) => {
    const row = document.createElement("tr");
    if (i === layer) row.setAttribute("aria-current", "true");
    return cells(row, [i + 1, className(panel, part(arrays.classes, i)[query]),
      part(arrays.scores, i)[query].toFixed(3), pixels(part(arrays.boxes, i, query)),
      arrays.points ? pixels(part(arrays.points, i, query)) : "none"]);
  });
  $(".layers tbody", root).replaceChildren(...rows);
  const best = weights ? strongest(weights.values, STRONGEST) : [];
  $(".strongest tbody", root).replaceChildren(...best.map((i) => {
    const [x, y] = weights.places(i);
    return cells(document.createElement("tr"), [`${percent(x)} from the left, ${percent(y)} from the top`,
      weights.level(i), weights.values[i].toFixed(5)]);
  }));
  const others = panel.read ? strongest(panel.read, NEAR) : [];
  $(".read", root).replaceChildren(
    ...others.map((q) => queryChip(panel, q, ` with ${panel.read[q].toFixed(5)}`)));
  writePlace(panel);
}

function writePlace(panel) {
  $(".place", panel.root).hidden = !state.place;
  if (!state.place) return;
  $(".near", panel.root).replaceChildren(...panel.near.map((q) => queryChip(panel, q, "")));
  $(".looking", panel.root).replaceChildren(
    ...panel.looking.map(([q, weight]) => queryChip(panel, q, ` with ${weight.toFixed(5)}`)));
}

function headName(view) {
  return state.head ? `head ${Math.min(state.head, view.heads)}` : `mean of ${view.heads} heads`;
}

// ---- what happens ---------------------------------------------------------------------------

// The weight at a place: of the cell there, or of the samples close by.
function weightAt({ values, rows, columns, places }, place) {
  if (columns) {
    const [x, y] = place;
    return values[Math.floor(y * rows) * columns + Math.floor(x * columns)];
  }
  const picture = data.pictures[state.picture], reach = 0.03 * Math.max(picture.width, picture.height);
  return values.reduce((sum, weight, i) => sum + (distance(picture, places(i), place) < reach ? weight : 0), 0);
}

async function lookAt(panel) {
  const { view, arrays } = panel, kept = Object.keys(view.kept).map(Number);
  const all = [...Array(arrays.boxes.shape[1]).keys()];
  panel.near = nearest(view, arrays, state.place, all).slice(0, NEAR);
  const found = [];
  for (const query of kept) found.push([query, weightAt(await weightsOf(view, query), state.place)]);
  panel.looking = found.sort((a, b) => b[1] - a[1]).slice(0, NEAR);
  panel.encoder = view.encoder ? await encoderAt(view.encoder) : null;
}

async function encoderAt(encoder) {
  const places = await decode(encoder.places), where = await decode(encoder.where);
  const weights = await decode(encoder.weights), picture = data.pictures[state.picture];
  let token = 0;
  for (let i = 1; i < places.shape[0]; i++)
    if (distance(picture, part(places, i), state.place) < distance(picture, part(places, token), state.place))
      token = i;
  const layer = Math.min(state.layer, weights.shape[1] - 1), heads = headsOf(weights.shape[2]);
  const values = heads.flatMap((head) => [...part(weights, token, layer, head)].map((x) => x / heads.length));
  const at = heads.flatMap((head) => [...part(where, token, layer, head)]);
  return { values, places: (i) => [at[2 * i], at[2 * i + 1]] };
}

// Shows the state once more as long as it has changed meanwhile: never two at a time.
function refresh() {
  changed = true;
  $("#panels").setAttribute("aria-busy", "true");
  showing ??= (async () => {
    try {
      while (changed) {
        changed = false;
        await show();
      }
    } finally {
      showing = null;
      $("#panels").setAttribute("aria-busy", "false");
    }
  })();
  return showing;
}

async function show() {
  if (wanted !== state.picture) await change(wanted);
  const layers = Math.max(...panels.map((panel) => panel.view.layers));
  const heads = Math.max(...panels.map((panel) => panel.view.heads));
  $("#layer").max = layers;
  $("#layer").value = state.layer + 1;
  $("#head").max = heads;
  $("#head").value = state.head;
  $("#layer-text").textContent = `${state.layer + 1} of ${layers}`;
  $("#head-text").textContent = state.head ? `${state.head} of ${heads}` : `mean of ${heads}`;
  $("#head").setAttribute("aria-valuetext", $("#head-text").textContent);
  $("#layer").setAttribute("aria-valuetext", $("#layer-text").textContent);
  for (const panel of panels) {
    panel.weights = await weightsOf(panel.view, panel.query);
    panel.read = await readOf(panel.view, panel.query);
    if (state.place) await lookAt(panel);
    write(panel);
    tell(panel, panel.pointer);
    draw(panel);
  }
}

async function choose(panel, query) {
  panel.query = query;
  const box = part(panel.arrays.boxes, panel.view.layers - 1, query);
  for (const other of panels.filter((x) => x !== panel)) {
    const queries = Object.keys(other.view.kept).map(Number);
    const similar = (q) => overlap(box, part(other.arrays.boxes, other.view.layers - 1, q));
    other.query = queries.reduce((best, q) => (similar(q) > similar(best) ? q : best), other.view.first);
  }
  await refresh();
}

async function choosePlace(place) {
  state.place = place.map((x) => Math.max(0, Math.min(0.9999, x)));
  for (const panel of panels) {
    const kept = Object.keys(panel.view.kept).map(Number);
    [panel.query] = nearest(panel.view, panel.arrays, state.place, kept);
  }
  await refresh();
}

function showPicture(index) {
  wanted = index;
  return refresh();
}

// What belongs to a picture is there for all panels before any of it is used.
async function change(index) {
  const picture = data.pictures[index], loaded = [];
  for (const panel of panels) {
    loaded.push(await load(picture.views[panel.index]));
    const image = $("img", panel.root);
    image.src = picture.source;
    await image.decode();
  }
  panels.forEach((panel, i) => {
    const view = picture.views[panel.index];
    Object.assign(panel, { view, arrays: loaded[i], pointer: null, query: view.first });
    // No higher than the window.
    $(".stage", panel.root).style.maxWidth = `calc(75vh * ${picture.width / picture.height})`;
    $(".stage", panel.root).setAttribute("aria-label", `${picture.name}: click a place, or use the keys`);
  });
  state.picture = index;
  $("#picture").value = index;
  state.place = null;
  state.layer = Math.max(...panels.map((panel) => panel.view.layers)) - 1;
  state.head = 0;
  offer();
}

// Only what some panel has.
function offer() {
  const has = (name) => panels.some(({ view, arrays }) => {
    const kept = Object.values(view.kept)[0] || {};
    return {
      attention: kept.attention, samples: kept.weights, box: true, way: true,
      cell: arrays.cells || arrays.entering_points, gaussians: arrays.centres,
      salient: arrays.salient, queries: true, encoder: view.encoder,
    }[name];
  });
  $("#overlays").replaceChildren($("#overlays legend"), ...Object.entries(OVERLAYS)
    .filter(([name]) => has(name)).map(([name, text]) => {
      const label = document.createElement("label"), box = document.createElement("input");
      Object.assign(box, { type: "checkbox", name, checked: shown.has(name) });
      box.addEventListener("change", () => {
        if (box.checked) shown.add(name); else shown.delete(name);
        refresh();
      });
      label.append(box, ` ${text}`);
      return label;
    }));
}

function placeOf(event, panel) {
  const box = panel.canvas.getBoundingClientRect();
  return [(event.clientX - box.x) / box.width, (event.clientY - box.y) / box.height];
}

function tell(panel, place) {
  panel.pointer = place;
  if (!panel.weights || !place) return;
  const weight = weightAt(panel.weights, place), [x, y] = place.map(percent);
  const what = panel.weights.columns
    ? `the cell in row ${Math.floor(place[1] * panel.weights.rows) + 1}, ` +
      `column ${Math.floor(place[0] * panel.weights.columns) + 1} has the weight`
    : "samples close by have together the weight";
  $(".pointer", panel.root).textContent =
    `${x} from the left, ${y} from the top: ${what} ${(weight || 0).toFixed(5)}.`;
}

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function key(event) {
  const typing = event.target.matches("input, select, summary, .wide");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const step = STEPS[event.key], [panel] = panels;
  if (step && event.shiftKey) {
    const [x, y] = state.place || [0.5, 0.5];
    choosePlace([x + step[0] / 40, y + step[1] / 40]);
  } else if (step) {
    move(state.layer + step[0], state.head + step[1]);
  } else if (event.key === "n" || event.key === "p") {
    const queries = panel.view.detected.map(([query]) => query);
    if (!queries.length) return;
    const next = queries.indexOf(panel.query) + (event.key === "n" ? 1 : -1);
    choose(panel, queries[(next + queries.length) % queries.length]);
  } else return;
  event.preventDefault();
}

function move(layer, head) {
  state.layer = Math.max(0, Math.min(layer, $("#layer").max - 1));
  state.head = Math.max(0, Math.min(head, Number($("#head").max)));
  refresh();
}

async function start() {
  $("#note").textContent = data.note;
  data.models.forEach((model, index) => {
    const root = $("#panel").content.cloneNode(true).firstElementChild;
    $("#panels").append(root);
    $("h2", root).textContent = model.name;
    root.setAttribute("aria-label", model.name);
    panels.push({ index, root, canvas: $("canvas", root) });
  });
  data.pictures.forEach((picture, index) => $("#picture").append(new Option(picture.name, index)));
  window.addEventListener("resize", refresh);
  await showPicture(0);
  for (const panel of panels) {
    const stage = $(".stage", panel.root);
    stage.addEventListener("click", (event) => choosePlace(placeOf(event, panel)));
    stage.addEventListener("pointermove", (event) => tell(panel, placeOf(event, panel)));
  }
  $("#picture").addEventListener("change", (event) => showPicture(Number(event.target.value)));
  $("#layer").addEventListener("input", (event) => move(event.target.value - 1, state.head));
  $("#head").addEventListener("input", (event) => move(state.layer, Number(event.target.value)));
  document.addEventListener("keydown", key);
}

// For scripts: what is shown once #panels is no longer busy.
const viewer = {
  state,
  weights: (index = 0) => [...panels[index].weights.values],
  query: (index = 0) => panels[index].query,
};
start();
