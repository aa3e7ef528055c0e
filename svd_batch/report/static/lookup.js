// Which cell comes nearest to a wanted value within bounds, for all pictures and for each: what the verb `recommend`
// answers (analysis/recommend.py), over the page's clips. Only clips that were made count, nothing is interpolated.

const SHARE = 0.5; // a cell for all pictures must keep the bounds on so many of its pictures
const FEW = 0.5; // cells of fewer pictures than this part of the fullest cell's are not taken for all pictures
const NUM_NEXT = 3;

const ascending = (a, b) => a - b;

function quantile(sorted, share) {
  const at = (sorted.length - 1) * share, lower = Math.floor(at);
  return sorted[lower] + ((sorted[lower + 1] ?? sorted[lower]) - sorted[lower]) * (at - lower);
}

const median = values => quantile([...values].sort(ascending), 0.5);

// Replicates of a cell are taken together by their mean. Cells count in the order of their fields.
const cellAxes = axes.map((axis, i) => [axis.name, i]).filter(([name]) => name !== "replicate" && name !== "seed").map(([, i]) => i);
const inOrder = [...cellAxes].sort((a, b) => axes[a].order - axes[b].order);

// Map of cell -> Map of picture -> {values, clips}; of what has values of all metrics, the wanted one first.
function lookupCells(metrics) {
  const columns = metrics.map(columnOf);
  const cells = new Map();
  for (let clip = 0; clip < data.num; clip++) {
    if (pictureOf[clip] >= pictures.numInGrid) continue;
    const key = cellAxes.map(axis => placeOf[axis][clip]).join();
    if (!cells.has(key)) cells.set(key, new Map());
    const ofCell = cells.get(key);
    const entry = ofCell.get(pictureOf[clip]) ?? { sums: metrics.map(() => 0), counts: metrics.map(() => 0), clips: [] };
    columns.forEach((column, m) => {
      if (column[clip] !== null) entry.sums[m] += column[clip], entry.counts[m] += 1;
    });
    if (columns[0][clip] !== null) entry.clips.push(clip);
    ofCell.set(pictureOf[clip], entry);
  }
  for (const [key, ofCell] of cells) {
    for (const [picture, entry] of ofCell) {
      if (entry.counts.some(count => count === 0)) ofCell.delete(picture);
      else entry.values = entry.sums.map((sum, m) => sum / entry.counts[m]);
    }
    if (!ofCell.size) cells.delete(key);
  }
  return cells;
}

// Say of each entry by how much it misses each bound, and the worst of these in units of its metric's spread.
function weigh(cells, metrics, bounds) {
  const entries = [...cells.values()].flatMap(ofCell => [...ofCell.values()]);
  const scales = bounds.map(bound => {
    const sorted = entries.map(entry => entry.values[metrics.indexOf(bound.name)]).sort(ascending);
    return quantile(sorted, 0.95) - quantile(sorted, 0.05) || 1;
  });
  for (const entry of entries) {
    entry.misses = bounds.map(bound => {
      const value = entry.values[metrics.indexOf(bound.name)];
      return Math.max(bound.side === "least" ? bound.value - value : value - bound.value, 0);
    });
    entry.worst = Math.max(0, ...entry.misses.map((miss, b) => miss / scales[b]));
  }
}

// The miss that SHARE of the pictures don't exceed.
const missOfShare = misses => [...misses].sort(ascending)[Math.max(Math.ceil(misses.length * SHARE - 1e-9) - 1, 0)];

function placesBefore(a, b) {
  const [first, second] = [a.split(","), b.split(",")];
  for (const axis of inOrder) {
    const at = cellAxes.indexOf(axis);
    if (first[at] !== second[at]) return first[at] - second[at];
  }
  return 0;
}

function rankCells(cells, metrics, bounds, distance) {
  const fullest = Math.max(0, ...[...cells.values()].map(ofCell => ofCell.size));
  return [...cells].filter(([, ofCell]) => ofCell.size >= Math.max(1, FEW * fullest)).map(([key, ofCell]) => {
    const entries = [...ofCell.values()];
    const sorted = entries.map(entry => entry.values[0]).sort(ascending);
    return {
      key, num: entries.length, kept: entries.filter(entry => entry.worst === 0).length,
      values: metrics.map((_, m) => median(entries.map(entry => entry.values[m]))),
      miss: missOfShare(entries.map(entry => entry.worst)),
      misses: bounds.map((_, b) => missOfShare(entries.map(entry => entry.misses[b]))),
      distance: distance(quantile(sorted, 0.5)), spread: quantile(sorted, 0.9) - quantile(sorted, 0.1),
    };
  }).sort((a, b) => a.miss - b.miss || a.distance - b.distance || b.kept - a.kept || a.spread - b.spread || placesBefore(a.key, b.key));
}

function bestOfEach(cells, distance) {
  const best = new Map();
  for (const [key, ofCell] of cells) {
    for (const [picture, entry] of ofCell) {
      const one = { key, ...entry, distance: distance(entry.values[0]) };
      const before = best.get(picture);
      if (!before || (one.worst - before.worst || one.distance - before.distance || placesBefore(key, before.key)) < 0) best.set(picture, one);
    }
  }
  return new Map([...best].sort(([a], [b]) => a - b));
}

const headOf = measure => (measure.unit ? `${measure.title}, ${measure.unit}` : measure.title);
const heading = text => make("th", { scope: "col" }, text);
const cellHeads = () => cellAxes.map(axis => heading(axes[axis].label));
const cellTexts = key => cellAxes.map((axis, i) => make("td", {}, axes[axis].texts[key.split(",")[i]]));
const cellWords = key => cellAxes.map((axis, i) => `${axes[axis].name} ${axes[axis].texts[key.split(",")[i]]}`).join(", ") || "the only cell";

// --- what is asked -----------------------------------------------------------------------------------------------------

// Bounds in the address, as name:side:value,…; one without a value is a row that asks nothing yet.
function readBounds() {
  return state.bounds.split(",").filter(Boolean).map(text => {
    const [name, side, value] = text.split(":");
    return { name: decodeURIComponent(name), side: side === "most" ? "most" : "least", value: value && isFinite(value) ? Number(value) : null };
  }).filter(bound => measureNamed(bound.name) && range(bound.name));
}

const writeBounds = bounds => change({
  bounds: bounds.map(bound => `${encodeURIComponent(bound.name)}:${bound.side}:${bound.value ?? ""}`).join(),
}, "lookup");

let found = null;

function readLookup() {
  const ends = state.wanted && range(state.wanted);
  if (!ends) return null;
  const isNumber = state.target !== "" && isFinite(state.target);
  const target = isNumber ? Number(state.target) : median(columnOf(state.wanted).filter(v => v !== null));
  const distance = { most: value => -value, least: value => value }[state.aim] ?? (value => Math.abs(value - target));
  const rows = readBounds(), bounds = rows.filter(bound => bound.value !== null);
  const metrics = [...new Set([state.wanted, ...bounds.map(bound => bound.name)])];
  const cells = lookupCells(metrics);
  weigh(cells, metrics, bounds);
  const ranked = rankCells(cells, metrics, bounds, distance);
  return { ends, target, rows, bounds, metrics, cells, ranked, numSparse: cells.size - ranked.length, each: bestOfEach(cells, distance) };
}

function applyPick() {
  if (state.pick === "lacking") {
    pickedClips = new Set([...isMissing, ...isDamaged]);
    return;
  }
  if (state.pick && state.pick !== "all" && state.pick !== "each") {
    const cell = pairs(state.pick).map(([name, place]) => [axisOf(name), place]);
    pickedClips = new Set([...passing.keys()].filter(clip => cell.every(([axis, place]) => axis < 0 || placeOf[axis][clip] === place)));
    return;
  }
  found = readLookup();
  if (!state.pick || !found) pickedClips = null;
  else if (state.pick === "all") pickedClips = new Set([...(found.cells.get(found.ranked[0]?.key)?.values() ?? [])].flatMap(entry => entry.clips));
  else pickedClips = new Set([...found.each.values()].flatMap(entry => entry.clips));
}

// --- what is shown -------------------------------------------------------------------------------------------------------

// Set a slider and the field beside it, unless the person is in the midst of writing into that.
function setNumber(slider, field, ends, value) {
  slider.min = ends.low;
  slider.max = ends.high;
  slider.step = (ends.high - ends.low) / 200 || 1;
  slider.value = value ?? ends.low;
  if (document.activeElement !== field) field.value = value === null ? "" : Number(value.toPrecision(4));
}

function boundRow(bound, index) {
  const write = changes => {
    const bounds = readBounds();
    bounds[index] = { ...bounds[index], ...changes };
    writeBounds(bounds);
  };
  const title = measureNamed(bound.name).title;
  const options = (list, chosen) => list.map(([key, text]) => make("option", { value: key, selected: key === chosen }, text));
  const entered = event => write({ value: event.target.value === "" ? null : Number(event.target.value) });
  return make("li", { class: "bound" },
    make("select", { class: "of", "aria-label": "metric to keep", onchange: event => write({ name: event.target.value, value: null }) },
      ...options(measureOptions(numbers.filter(m => range(m.name))), bound.name)),
    make("select", { class: "side", "aria-label": "which side", onchange: event => write({ side: event.target.value }) },
      ...options([["least", "at least"], ["most", "at most"]], bound.side)),
    make("input", { type: "range", "aria-label": `${title}, bound`, oninput: entered }),
    make("input", { type: "number", step: "any", placeholder: "any", "aria-label": `${title}, bound as a number`, oninput: entered }),
    make("button", { type: "button", class: "small remove", "aria-label": `Remove the bound on ${title}`, onclick: () => {
      writeBounds(readBounds().filter((_, i) => i !== index));
      byId("add-bound").focus();
    } }, "Remove"));
}

function drawBounds() {
  const list = byId("bounds");
  const shape = found.rows.map(bound => `${bound.name}:${bound.side}`).join();
  if (list.dataset.shape !== shape) list.replaceChildren(...found.rows.map(boundRow)); // else a slider would slip from the hand
  list.dataset.shape = shape;
  found.rows.forEach((bound, i) => {
    const [slider, field] = list.children[i].querySelectorAll("input");
    setNumber(slider, field, range(bound.name), bound.value);
    slider.setAttribute("aria-valuetext", bound.value === null ? "any" : withUnit(bound.value, measureNamed(bound.name)));
  });
}

function drawLookup() {
  if (!byId("lookup")) return;
  found = readLookup();
  byId("lookup-body").hidden = !found;
  byId("lookup-none").hidden = Boolean(found);
  if (!found) return;
  const wanted = measureNamed(state.wanted);
  fillSelect("wanted", measureOptions(numbers), state.wanted);
  byId("aim").value = state.aim;
  byId("target-label").hidden = state.aim !== "near";
  setNumber(byId("target"), byId("target-number"), found.ends, found.target);
  byId("target").setAttribute("aria-valuetext", withUnit(found.target, wanted));
  drawBounds();
  drawForAll();
  drawForEach();
}

const boundWords = (bound, value = bound.value) => `${measureNamed(bound.name).title} ${bound.side === "least" ? "≥" : "≤"} ${figure(value)}`;

// By how much a cell or a clip misses the bounds, in words.
function missWords(one) {
  const parts = found.bounds.flatMap((bound, b) => (one.misses[b] > 0 ? [`${measureNamed(bound.name).title} by ${withUnit(one.misses[b], measureNamed(bound.name))}`] : []));
  return parts.length ? `misses ${parts.join(" and ")}` : "keeps each bound on enough pictures, but not all at once";
}

const keptHeads = () => heading(found.bounds.length ? "pictures that keep the bounds" : "pictures");
const keptText = one => (found.bounds.length ? `${one.kept} of ${one.num}` : String(one.num));

function drawForAll() {
  const best = found.ranked[0];
  for (const pick of ["all", "each"]) byId(`pick-${pick}`).disabled = !best;
  byId("lookup-next").hidden = found.ranked.length < 2;
  if (!best) return byId("lookup-all").replaceChildren("No video has values of all of these.");
  const given = found.metrics.map((name, m) => `${withUnit(best.values[m], measureNamed(name))} of ${measureNamed(name).title}`);
  const kept = found.bounds.length ? `; ${best.kept} of them ${best.kept === 1 ? "keeps" : "keep"} ${found.bounds.map(bound => boundWords(bound)).join(" and ")}` : "";
  byId("lookup-all").replaceChildren(make("b", {}, cellWords(best.key)), ` makes ${given.join(" and ")} (${given.length > 1 ? "medians" : "median"} over ${plural(best.num, "picture")}${kept}).`,
    best.miss > 0 ? ` No cell keeps ${found.bounds.length === 1 ? "the bound" : "the bounds"} on half of its pictures; this one comes nearest: it ${missWords(best)}.` : "",
    found.numSparse ? ` ${plural(found.numSparse, "cell")} passed over: most pictures lack ${found.numSparse === 1 ? "it" : "them"}.` : "");
  const next = found.ranked.slice(1, 1 + NUM_NEXT).filter(one => one.miss === 0 || best.miss > 0);
  byId("lookup-next").hidden = !next.length;
  byId("lookup-others-head").replaceChildren(...cellHeads(), ...found.metrics.map(name => heading(headOf(measureNamed(name)))), keptHeads());
  byId("lookup-others").replaceChildren(...next.map(one => make("tr", {}, ...cellTexts(one.key),
    ...one.values.map(value => make("td", {}, figure(value))), make("td", {}, keptText(one)))));
}

function drawForEach() {
  const shown = [...found.each].slice(0, 200);
  byId("lookup-each-head").replaceChildren(heading("picture"), ...cellHeads(), ...found.metrics.map(name => heading(headOf(measureNamed(name)))),
    ...(found.bounds.length ? [heading("bounds")] : []));
  byId("lookup-each").replaceChildren(...shown.map(([picture, one]) => make("tr", {}, make("th", { scope: "row" }, pictures.id[picture]),
    ...cellTexts(one.key), ...one.values.map(value => make("td", {}, figure(value))),
    found.bounds.length ? make("td", {}, one.worst === 0 ? "kept" : missWords(one)) : null)));
  const kept = [...found.each.values()].filter(one => one.worst === 0).length;
  byId("lookup-each-note").textContent = `${kept} of ${plural(found.each.size, "picture")} ${found.bounds.length ? "can keep the bounds" : "have such a clip"}`
    + (found.each.size > shown.length ? `; the first ${shown.length} are listed.` : ".");
}

function wireLookup() {
  if (!byId("lookup")) return;
  byId("wanted").addEventListener("change", event => change({ wanted: event.target.value, target: "" }, "lookup"));
  byId("aim").addEventListener("change", event => change({ aim: event.target.value }, "lookup"));
  for (const id of ["target", "target-number"]) byId(id).addEventListener("input", event => change({ target: event.target.value }, "lookup"));
  byId("add-bound").addEventListener("click", () => {
    const rows = readBounds(), free = numbers.filter(m => range(m.name));
    const next = free.find(m => m.name !== state.wanted && !rows.some(bound => bound.name === m.name)) ?? free[0];
    writeBounds([...rows, { name: next.name, side: next.better === "low" ? "most" : "least", value: null }]);
    byId("bounds").lastElementChild.querySelector("select").focus();
  });
  for (const pick of ["all", "each"]) {
    byId(`pick-${pick}`).addEventListener("click", () => {
      // the sliders go to the one cell; cells that differ from picture to picture stand in the wall of clips
      const at = pick === "all" ? cellAxes.map((axis, i) => `${axes[axis].name}:${found.ranked[0].key.split(",")[i]}`).join(",") : state.at;
      change({ pick, at, layout: pick === "all" ? "pictures" : "clips" }, "filter");
      byId("clips").scrollIntoView({ behavior: "smooth" });
    });
  }
}
