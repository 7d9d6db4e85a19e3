"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const NAMES = DATA.classes.map(c => c.name), NUM = NAMES.length;
const CORRECT = 0, KINDS = DATA.kinds, MISSED = KINDS.length - 1;  // kind + 1 in the arrays
const GRID = 100, STEP = DATA.arrays.steps / GRID;  // scores per step of the threshold
const COLORS = { right: "#006b4f", false: "#b34700", missed: "#9a3d75", blue: "#0062a0", grey: "#666" };
const KIND_TEXT = {
  classification: "on an object of another class: look for classes that are alike, or labelled wrongly",
  localisation: "on an object of its class, but not well enough: loose or inconsistent boxes, too small images",
  both: "near an object of another class",
  duplicate: "on an object that another detection has found",
  background: "on nothing: often objects that are not labelled",
  missed: "objects that nothing is aimed at: too few, too small or too crowded examples",
};
const state = { cls: -1, threshold: 50, sort: "errors", down: true, page: 0, filter: "" };
const views = [];  // functions that draw what depends on the state

const $ = id => document.getElementById(id);
const fixed = (value, digits) => value == null || Number.isNaN(value) ? "–" : value.toFixed(digits);
const percent = value => value == null || Number.isNaN(value) ? "–" : (100 * value).toFixed(1) + "%";

function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "path", "line", "rect", "text", "image", "title", "circle"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(key, value);
    else if (value != null) node.setAttribute(key, value);
  }
  node.append(...children.filter(child => child != null));
  return node;
}

function decode(text, Type) {
  const bytes = Uint8Array.from(atob(text), character => character.charCodeAt(0));
  return new Type(bytes.buffer);
}

function unpack(part, types) {
  const arrays = { count: decode(part.count, Uint32Array) };
  for (const [name, Type] of Object.entries(types)) arrays[name] = decode(part[name], Type);
  const image = arrays.image = new Uint32Array(arrays.cls.length);
  let place = 0;
  arrays.count.forEach((count, index) => { image.fill(index, place, place += count); });
  return arrays;
}

const FOUND = unpack(DATA.arrays.found, { cls: Uint16Array, score: Uint16Array, kind: Uint8Array });
const OBJECTS = unpack(DATA.arrays.objects, {
  cls: Uint16Array, found: Uint16Array, taken: Uint16Array, taken_class: Uint16Array, aimed: Uint16Array,
});

// counts[kind][class * (GRID + 2) + t]: detections of a score of t steps or more; the last of
// classes is all of them.
function cumulate(length, cls, kindOf, numKinds, stepOf) {
  const width = GRID + 2;
  const counts = Array.from({ length: numKinds }, () => new Uint32Array((NUM + 1) * width));
  for (let i = 0; i < length; i++) {
    const step = stepOf(i);
    if (step < 0) continue;
    counts[kindOf(i)][cls[i] * width + step]++;
    counts[kindOf(i)][NUM * width + step]++;
  }
  for (const row of counts) {
    for (let c = 0; c <= NUM; c++) {
      for (let t = GRID; t >= 0; t--) row[c * width + t] += row[c * width + t + 1];
    }
  }
  return (kind, c, t) => counts[kind][(c < 0 ? NUM : c) * width + t];
}

const stepOf = score => Math.floor(score / STEP);
const stepOfObject = score => score ? stepOf(score - 1) : -1;  // 0 stands for none
const countFound = cumulate(FOUND.cls.length, FOUND.cls, i => FOUND.kind[i], KINDS.length, i => stepOf(FOUND.score[i]));
// An object is missed where nothing has found it and no error is aimed at it.
const countHit = cumulate(OBJECTS.cls.length, OBJECTS.cls, () => 0, 1,
  i => stepOfObject(Math.max(OBJECTS.found[i], OBJECTS.aimed[i])));
const objectsOf = c => c < 0 ? DATA.objects : DATA.classes[c].objects;

function tally(c, t) {
  const kinds = KINDS.map((_, k) => k === MISSED ? objectsOf(c) - countHit(0, c, t) : countFound(k + 1, c, t));
  const correct = countFound(CORRECT, c, t), objects = objectsOf(c);
  const wrong = kinds.slice(0, MISSED).reduce((a, b) => a + b, 0);
  return {
    kinds, correct, objects, wrong, lacking: objects - correct,
    precision: correct + wrong ? correct / (correct + wrong) : NaN,
    recall: objects ? correct / objects : NaN,
    f1: objects + correct + wrong ? 2 * correct / (objects + correct + wrong) : NaN,
  };
}

const bestOf = c => c < 0 ? DATA.threshold.score : DATA.classes[c].threshold && DATA.classes[c].threshold.score;

function table(caption, head, rows, label) {
  const body = rows.map(({ cells, attributes }) => make("tr", attributes || {}, ...cells));
  return make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label || caption },
    make("table", {}, make("caption", {}, caption), make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body)));
}
const heading = (text, attributes = {}) => make("th", { scope: "col", ...attributes }, text);
const rowHeading = text => make("th", { scope: "row" }, text);
const cell = (text, attributes = {}) => make("td", attributes, String(text));

// A chart of lines over 0..1: with the mouse, a finger or the arrow keys its values can be read.
function lineChart(place, options) {
  const width = 520, height = 320, left = 46, bottom = 42, top = 10, right = 12;
  const x = value => left + value * (width - left - right), y = value => height - bottom - value * (height - bottom - top);
  const svg = make("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", tabindex: 0, "aria-label": options.label });
  for (let i = 0; i <= 5; i++) {
    svg.append(
      make("line", { x1: x(0), x2: x(1), y1: y(i / 5), y2: y(i / 5), stroke: "#e2e2e2" }),
      make("text", { x: x(0) - 6, y: y(i / 5) + 4, "text-anchor": "end" }, (i / 5).toFixed(1)),
      make("text", { x: x(i / 5), y: y(0) + 18, "text-anchor": "middle" }, (i / 5).toFixed(1)));
  }
  svg.append(make("text", { x: x(0.5), y: height - 6, "text-anchor": "middle" }, options.xLabel));
  for (const series of options.series) {
    const path = series.points.filter(([, v]) => v != null && !Number.isNaN(v))
      .map(([u, v], i) => `${i ? "L" : "M"}${x(u).toFixed(1)} ${y(v).toFixed(1)}`).join("");
    svg.append(make("path", { d: path || "M0 0", fill: "none", stroke: series.color, "stroke-width": 2.5, "stroke-dasharray": series.dash }));
    if (series.dots) series.points.filter(([, v]) => v >= 0).forEach(([u, v]) => svg.append(make("circle", { cx: x(u), cy: y(v), r: 4, fill: series.color })));
  }
  if (options.marker != null) {
    svg.append(make("line", { x1: x(options.marker), x2: x(options.marker), y1: y(0), y2: y(1), stroke: COLORS.grey, "stroke-dasharray": "4 3" }));
  }
  const cross = make("line", { y1: y(0), y2: y(1), stroke: "#000", visibility: "hidden" });
  svg.append(cross);
  const readout = make("p", { class: "readout", "aria-live": "polite" }, options.note || "");
  const points = options.series[0].points;
  let current = -1;
  const show = index => {
    current = Math.max(0, Math.min(points.length - 1, index));
    const at = points[current][0];
    cross.setAttribute("x1", x(at));
    cross.setAttribute("x2", x(at));
    cross.setAttribute("visibility", "visible");
    readout.textContent = options.read(current);
  };
  svg.addEventListener("pointermove", event => {
    const box = svg.getBoundingClientRect();
    const value = ((event.clientX - box.left) / box.width * width - left) / (width - left - right);
    let nearest = 0;
    points.forEach(([u], i) => { if (Math.abs(u - value) < Math.abs(points[nearest][0] - value)) nearest = i; });
    show(nearest);
  });
  svg.addEventListener("keydown", event => {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -1e9, End: 1e9 }[event.key];
    if (!move) return;
    event.preventDefault();
    show(current + move);
  });
  const keys = options.series.filter(series => series.name).map(series => make("span", { class: "key" },
    make("svg", { viewBox: "0 0 28 10", "aria-hidden": "true" },
      make("line", { x1: 0, x2: 28, y1: 5, y2: 5, stroke: series.color, "stroke-width": 3, "stroke-dasharray": series.dash })), series.name));
  $(place).replaceChildren(make("p", {}, ...keys), svg, readout);
}

const chosen = () => state.cls < 0 ? "all classes" : NAMES[state.cls];

views.push(function tiles() {
  const c = state.cls, now = tally(c, state.threshold);
  const ap = c < 0 ? DATA.coco : DATA.classes[c];
  const values = {
    AP: fixed(ap.AP, 1), AP50: fixed(ap.AP50, 1), precision: percent(now.precision), recall: percent(now.recall),
    F1: fixed(now.f1, 3), objects: now.objects, found: now.correct, "not found": now.lacking, "false detections": now.wrong,
  };
  $("tiles").replaceChildren(...Object.entries(values).map(([name, value]) =>
    make("div", {}, make("dt", {}, name), make("dd", { id: "tile-" + name.replace(/ /g, "-") }, String(value)))));
  const best = bestOf(-1);
  const costs = Object.entries(DATA.errors.kinds).filter(([, e]) => e.cost > 0).sort((a, b) => b[1].cost - a[1].cost);
  const parts = [];
  if (best != null) {
    const at = DATA.threshold;
    parts.push(`With a threshold of ${fixed(best, 3)} (the best F1 of all classes together, ${fixed(at.f1, 3)}), ` +
      `${percent(at.precision)} of the detections are right and ${percent(at.recall)} of the objects are found.`);
  } else parts.push("No object is found at all.");
  if (costs.length) parts.push(`Most is lost by ${costs[0][0]} errors: ${fixed(costs[0][1].cost, 1)} points of AP50.`);
  $("verdict").textContent = parts.join(" ");
});

views.push(function errors() {
  const c = state.cls, now = tally(c, state.threshold);
  const costs = c < 0 ? DATA.errors.kinds : DATA.classes[c].errors;
  const most = Math.max(1e-9, ...KINDS.map(kind => costs[kind].cost || 0));
  const rows = KINDS.map((kind, k) => ({ cells: [
    rowHeading(kind),
    cell(now.kinds[k], { id: "count-" + kind }),
    make("td", {}, fixed(costs[kind].cost, 2) + " ",
      make("span", { class: "bar", "aria-hidden": "true", style: `width:${Math.max(0, costs[kind].cost || 0) / most * 90}px` })),
    cell(KIND_TEXT[kind], { class: "text" }),
  ] }));
  $("errors-note").textContent = "The kinds are those of TIDE (Bolya et al. 2020). An object is found at an overlap of " +
    `${DATA.errors.found_from}, and nothing is near below ${DATA.errors.near_from}. The cost is by how many points AP50 ` +
    "would rise without the kind, at all scores; the numbers are of detections from the threshold on.";
  $("errors").replaceChildren(table(`Errors of ${chosen()} from a score of ${(state.threshold / GRID).toFixed(2)}`,
    [heading("kind"), heading("number"), heading("costs AP50"), heading("what it is", { style: "text-align:left" })], rows, "Errors"));
});

const AP_NAMES = { AP: "AP", AP50: "AP50", AP75: "AP75", APs: "AP small", APm: "AP medium", APl: "AP large" };

views.push(function classes() {
  const pick = (c, name) => make("th", { scope: "row" },
    make("button", { type: "button", id: "pick-" + c, "aria-pressed": String(c === state.cls), click: () => choose(c) }, name));
  const row = (c, name, ap) => {
    const now = tally(c, state.threshold), best = bestOf(c);
    return { attributes: { "aria-current": c === state.cls ? "true" : null }, cells: [
      pick(c, name), cell(now.objects), ...Object.keys(AP_NAMES).map(key => cell(fixed(ap[key], 1))),
      cell(fixed(best, 3)), cell(fixed(c < 0 ? DATA.threshold.f1 : DATA.classes[c].threshold && DATA.classes[c].threshold.f1, 3)),
      cell(percent(now.precision)), cell(percent(now.recall)) ] };
  };
  const rows = [row(-1, "all classes", DATA.coco), ...DATA.classes.map((found, c) => row(c, found.name, found))];
  const focused = document.activeElement && document.activeElement.id;
  $("classes").replaceChildren(table("AP 0 to 100; the best threshold and its F1; precision and recall at the chosen threshold",
    ["class", "objects", ...Object.values(AP_NAMES), "best threshold", "F1 there", "precision", "recall"].map(name => heading(name)), rows, "Classes"));
  if (focused && focused.startsWith("pick-") && $(focused)) $(focused).focus();
});

views.push(function precisionRecall() {
  const parts = state.cls < 0 ? DATA.precision.filter((_, c) => DATA.classes[c].objects) : [DATA.precision[state.cls]];
  const curve = kind => Array.from({ length: 101 }, (_, r) => {
    const values = parts.map(part => part[kind][r]).filter(value => value != null);
    return [r / 100, values.length ? values.reduce((a, b) => a + b, 0) / values.length : NaN];
  });
  const series = [
    { name: "overlap 0.5", color: COLORS.blue, points: curve(0) },
    { name: "0.75", color: COLORS.false, dash: "7 4", points: curve(1) },
    { name: "mean of 0.5 to 0.95", color: COLORS.right, dash: "2 3", points: curve(2) },
  ];
  lineChart("pr", { series, xLabel: "recall", label: `Precision against recall of ${chosen()}`,
    note: `Precision (upwards) of ${chosen()}. Point at the curves for their values.`,
    read: i => `recall ${(i / 100).toFixed(2)}: precision ` + series.map(s => `${fixed(s.points[i][1], 3)} (${s.name})`).join(", ") });
});

views.push(function threshold() {
  const values = Array.from({ length: GRID + 1 }, (_, t) => tally(state.cls, t));
  const of = key => values.map((value, t) => [t / GRID, value[key]]);
  const series = [
    { name: "F1", color: COLORS.blue, points: of("f1") },
    { name: "precision", color: COLORS.false, dash: "7 4", points: of("precision") },
    { name: "recall", color: COLORS.right, dash: "2 3", points: of("recall") },
  ];
  const best = bestOf(state.cls);
  lineChart("f1", { series, xLabel: "threshold of the score", marker: state.threshold / GRID, label: `F1, precision and recall of ${chosen()} against the threshold`,
    note: best == null ? `Nothing of ${chosen()} is found.` : `The best threshold of ${chosen()} is ${fixed(best, 3)}.`,
    read: i => `threshold ${(i / GRID).toFixed(2)}: ` + series.map(s => `${s.name} ${fixed(s.points[i][1], 3)}`).join(", ") });
});

views.push(function calibration() {
  const found = state.cls < 0 ? DATA.calibration : DATA.classes[state.cls].calibration;
  const bins = found.count.map((count, b) => b).filter(b => found.count[b]);
  const points = bins.map(b => [found.score[b], found.precision[b]]);
  const series = [
    { name: "share that is right", color: COLORS.blue, dots: true, points: points.length ? points : [[0, NaN]] },
    { name: "what the score says", color: COLORS.grey, dash: "4 3", points: [[0, 0], [1, 1]] },
  ];
  lineChart("calibration", { series, xLabel: "score", label: `Share of right detections of ${chosen()} against the score`,
    note: `On average score and share differ by ${fixed(found.error, 3)} (all detections of ${chosen()}).`,
    read: i => bins.length ? `score ${fixed(points[i][0], 2)}: ${percent(points[i][1])} of ${found.count[bins[i]]} detections are right` : "no detections" });
});

function confusionMatrix(t) {
  const size = NUM + 1, matrix = new Uint32Array(size * size);
  const enough = score => score > t * STEP;  // codes of objects are one higher
  for (let i = 0; i < OBJECTS.cls.length; i++) {
    const column = enough(OBJECTS.found[i]) ? OBJECTS.cls[i] : enough(OBJECTS.taken[i]) ? OBJECTS.taken_class[i] : NUM;
    matrix[OBJECTS.cls[i] * size + column]++;
  }
  for (let c = 0; c < NUM; c++) {
    let rest = 0;
    for (let kind = 0; kind < KINDS.length; kind++) rest += countFound(kind, c, t);  // right, and five errors
    for (let r = 0; r < NUM; r++) rest -= matrix[r * size + c];
    matrix[NUM * size + c] = rest;
  }
  return matrix;
}

const MOST_CLASSES = 15;
views.push(function confusion() {
  const size = NUM + 1, matrix = confusionMatrix(state.threshold);
  const label = c => c === NUM ? "background" : NAMES[c];
  const caption = `Objects (rows) and what stands for them from a score of ${(state.threshold / GRID).toFixed(2)} (columns)`;
  if (NUM > MOST_CLASSES) {
    const pairs = [];
    for (let r = 0; r < size; r++) for (let c = 0; c < size; c++) {
      if (r !== c && matrix[r * size + c] && (state.cls < 0 || r === state.cls || c === state.cls)) pairs.push([matrix[r * size + c], r, c]);
    }
    pairs.sort((a, b) => b[0] - a[0]);
    $("confusion").replaceChildren(table(`The most frequent of ${pairs.length}: ` + caption, ["there is", "found is", "number"].map(name => heading(name)),
      pairs.slice(0, 25).map(([count, r, c]) => ({ cells: [rowHeading(label(r)), cell(label(c)), cell(count)] })), "Confusion"));
    return;
  }
  const rows = Array.from({ length: size }, (_, r) => {
    const total = Math.max(1, Array.from({ length: size }, (_, c) => matrix[r * size + c]).reduce((a, b) => a + b, 0));
    return { attributes: { "aria-current": r === state.cls ? "true" : null }, cells: [rowHeading(label(r)), ...Array.from({ length: size }, (_, c) => {
      if (r === NUM && c === NUM) return cell("");
      const count = matrix[r * size + c], hue = r === c ? "0, 140, 100" : "210, 100, 0";
      return cell(count, { id: `confusion-${r}-${c}`, style: `background: rgba(${hue}, ${(0.5 * count / total).toFixed(3)})` });
    })] };
  });
  $("confusion").replaceChildren(table(caption, [heading("there is"), ...Array.from({ length: size }, (_, c) => heading(label(c)))], rows, "Confusion"));
});

function fixedParts() {
  const { by_object_count: counts, by_position: places } = DATA;
  $("by-count").replaceChildren(table("AP of images with so many objects", ["objects", "images", "AP"].map(name => heading(name)),
    counts.map(row => ({ cells: [rowHeading(row.objects), cell(row.images), cell(fixed(row.AP, 1))] }))));
  const most = Math.max(1e-9, ...places.AP.flat().map(value => value || 0));
  const columns = ["left", "middle", "right"];
  $("by-position").replaceChildren(table("AP of objects whose centre lies there (number of objects)", ["", ...columns].map(name => heading(name)),
    ["top", "middle", "bottom"].map((name, r) => ({ cells: [rowHeading(name), ...columns.map((_, c) => cell(
      `${fixed(places.AP[r][c], 1)} (${places.objects[r][c]})`, { style: `background: rgba(0, 110, 180, ${(0.4 * (places.AP[r][c] || 0) / most).toFixed(3)})` }))] })), "AP by place"));
  const what = { AP: "all overlaps", AP50: "overlap 0.5", AP75: "overlap 0.75", APs: "small objects", APm: "medium", APl: "large",
    AR1: "recall, 1 detection an image", AR10: "10", AR100: "100", ARs: "100, small objects", ARm: "medium", ARl: "large" };
  $("coco").replaceChildren(table("By pycocotools, 0 to 100", ["number", "value", "of"].map(name => heading(name)),
    Object.entries(DATA.coco).map(([name, value]) => ({ cells: [rowHeading(name), cell(fixed(value, 2)), cell(what[name], { class: "text" })] }))));
  const last = path => path.split(/[\\/]/).slice(-2).join("/");
  const from = DATA.source, parts = [last(from.weights || from.results), `on ${last(from.annotations)}: ${DATA.images} images, ${DATA.objects} objects, ${DATA.detections} detections`];
  if (DATA.crowds) parts.push(`${DATA.crowds} crowds, which do not count`);
  if (DATA.arrays.lowest > 0) parts.push(`this page has the detections with a score of ${fixed(DATA.arrays.lowest, 4)} or more`);
  $("source").textContent = parts.join("; ");
  const against = DATA.against;
  if (against) {
    $("against").hidden = false;
    $("against-table").replaceChildren(
      make("p", {}, `The other run is ${against.name}. Intervals hold ${percent(against.level)} of ${against.samples} draws of as many images; ` +
        "one that has 0 in it may be chance."),
      table("Differences: this run minus the other one", ["", "this", "other", "difference", "interval"].map(name => heading(name)),
        against.rows.map(row => ({ cells: [rowHeading(row.name), cell(fixed(row.this, 2)), cell(fixed(row.other, 2)), cell(fixed(row.difference, 2)),
          cell(row.low == null ? "–" : `${fixed(row.low, 2)} to ${fixed(row.high, 2)}`)] }))));
  }
  const line = (color, dash) => make("svg", { viewBox: "0 0 34 18", "aria-hidden": "true" },
    make("rect", { x: 3, y: 3, width: 28, height: 12, fill: "none", stroke: color, "stroke-width": 2.5, "stroke-dasharray": dash }));
  $("legend").replaceChildren(make("li", {}, line(BOX.right), "right detection"), make("li", {}, line(BOX.false), "false detection"),
    make("li", {}, line(BOX.missed, "5 3"), "object not found"), make("li", {}, line(BOX.there, "2 3"), "object found"));
}

// On photographs lines are lighter than on paper.
const BOX = { right: "#35e0a8", false: "#ff8a3c", missed: "#ff8fd0", there: "#ffffff" };

views.push(function worst() {
  const limit = state.threshold * STEP;
  const shown = c => state.cls < 0 || c === state.cls;
  $("worst-note").textContent = DATA.pictures.length
    ? "Those with the most false detections and objects not found at the best threshold of all classes. Boxes are those of the chosen class and threshold; pointing at one names it."
    : "There is no image with an error.";
  $("worst").replaceChildren(...DATA.pictures.map((picture, number) => {
    const { width, height } = picture, line = Math.max(width, height) / 200;
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
    if (picture.jpeg) svg.append(make("image", { href: "data:image/jpeg;base64," + picture.jpeg, width, height, preserveAspectRatio: "none" }));
    const draw = ([x, y, w, h], color, dash, title) => svg.append(make("rect", {
      x: x * width, y: y * height, width: w * width, height: h * height, fill: "rgba(0,0,0,0)", stroke: color,
      "stroke-width": line, "stroke-dasharray": dash && dash.map(length => length * line).join(" "),
    }, make("title", {}, title)));
    let correct = 0, wrong = 0, lacking = 0;
    picture.objects.box.forEach((box, i) => {
      const c = picture.objects.cls[i], found = picture.objects.found[i] > limit;
      if (!shown(c)) return;
      if (!found) lacking++;
      draw(box, found ? BOX.there : BOX.missed, found ? [1, 1.5] : [3, 2], `${NAMES[c]}, ${found ? "found" : "not found"}`);
    });
    picture.found.box.forEach((box, i) => {
      const c = picture.found.cls[i], kind = picture.found.kind[i], score = picture.found.score[i];
      if (!shown(c) || score < limit) return;
      if (kind === CORRECT) correct++; else wrong++;
      // What an object was taken for is named; all other boxes name themselves where they are pointed at.
      if (KINDS[kind - 1] === "classification") {
        svg.append(make("text", { class: "taken", x: (box[0] * width + 2 * line).toFixed(1), y: (Math.max(0, box[1]) * height + 7 * line).toFixed(1), "font-size": 7 * line, "stroke-width": 2 * line }, NAMES[c]));
      }
      draw(box, kind === CORRECT ? BOX.right : BOX.false, null, `${NAMES[c]} ${(score / DATA.arrays.steps).toFixed(2)}, ${kind === CORRECT ? "right" : KINDS[kind - 1]}`);
    });
    const text = `${DATA.files[picture.index]}: ${correct} right, ${wrong} false, ${lacking} not found`;
    svg.setAttribute("aria-label", text);
    return make("figure", { id: "worst-" + number }, svg, make("figcaption", {}, text + (picture.jpeg ? "" : " (no picture)")));
  }));
});

const COLUMNS = { file: "file", objects: "objects", correct: "found", wrong: "false", lacking: "not found", errors: "errors", f1: "F1" };
const ROWS_OF_PAGE = 50;

function imageRows() {
  const rows = DATA.files.map((file, index) => ({ file, index, objects: 0, correct: 0, wrong: 0 }));
  const limit = state.threshold * STEP;
  for (let i = 0; i < FOUND.cls.length; i++) {
    if (FOUND.score[i] < limit || (state.cls >= 0 && FOUND.cls[i] !== state.cls)) continue;
    rows[FOUND.image[i]][FOUND.kind[i] === CORRECT ? "correct" : "wrong"]++;
  }
  for (let i = 0; i < OBJECTS.cls.length; i++) if (state.cls < 0 || OBJECTS.cls[i] === state.cls) rows[OBJECTS.image[i]].objects++;
  for (const row of rows) {
    row.lacking = row.objects - row.correct;
    row.errors = row.wrong + row.lacking;
    const all = row.objects + row.correct + row.wrong;
    row.f1 = all ? 2 * row.correct / all : 1;
  }
  return rows;
}

views.push(function images() {
  let rows = imageRows().filter(row => row.file.toLowerCase().includes(state.filter));
  const sign = state.down ? -1 : 1;
  rows.sort((a, b) => sign * (a[state.sort] > b[state.sort] ? 1 : a[state.sort] < b[state.sort] ? -1 : 0) || a.index - b.index);
  const pages = Math.max(1, Math.ceil(rows.length / ROWS_OF_PAGE));
  state.page = Math.min(state.page, pages - 1);
  const head = Object.entries(COLUMNS).map(([key, name]) => make("th", { scope: "col", "aria-sort": key !== state.sort ? "none" : state.down ? "descending" : "ascending" },
    make("button", { type: "button", id: "sort-" + key, click: () => {
      state.down = state.sort === key ? !state.down : key !== "file" && key !== "f1";
      state.sort = key;
      state.page = 0;
      images();
      $("sort-" + key).focus();
    } }, name + (key === state.sort ? (state.down ? " ↓" : " ↑") : ""))));
  const shown = rows.slice(state.page * ROWS_OF_PAGE, (state.page + 1) * ROWS_OF_PAGE);
  const turn = (name, by) => make("button", { type: "button", disabled: state.page + by < 0 || state.page + by >= pages ? "" : null,
    click: () => { state.page += by; images(); } }, name);
  $("images").replaceChildren(
    table(`Images with detections of ${chosen()} from a score of ${(state.threshold / GRID).toFixed(2)}`, head, shown.map(row => ({ cells: [
      rowHeading(row.file), cell(row.objects), cell(row.correct), cell(row.wrong), cell(row.lacking), cell(row.errors), cell(fixed(row.f1, 3))] })), "All images"),
    make("p", { class: "pages" }, turn("previous", -1), `page ${state.page + 1} of ${pages}`, turn("next", 1)));
});

function draw() {
  $("class").value = state.cls;
  $("threshold").value = state.threshold;
  $("threshold-value").textContent = (state.threshold / GRID).toFixed(2);
  $("threshold").setAttribute("aria-valuetext", (state.threshold / GRID).toFixed(2));
  const best = bestOf(state.cls);
  $("best").textContent = best == null ? "no best threshold" : `best: ${fixed(best, 3)}`;
  $("best").disabled = best == null;
  views.forEach(view => view());
}

function choose(c) {
  state.cls = c;
  draw();
}

// To the nearest step: the best threshold lies between two scores.
const toStep = score => Math.max(0, Math.min(GRID, Math.round(score * GRID)));

$("class").append(make("option", { value: -1 }, "all"), ...NAMES.map((name, c) => make("option", { value: c }, name)));
$("class").addEventListener("change", event => choose(Number(event.target.value)));
$("threshold").addEventListener("input", event => { state.threshold = Number(event.target.value); draw(); });
$("best").addEventListener("click", () => { state.threshold = toStep(bestOf(state.cls)); draw(); });
$("filter").addEventListener("input", event => { state.filter = event.target.value.toLowerCase(); state.page = 0; draw(); });
if (bestOf(-1) != null) state.threshold = toStep(bestOf(-1));
fixedParts();
draw();
