// Which cell comes nearest to a wanted value, for all pictures and for each. Only clips that were made count: each
// cell's value is what its videos measured, and nothing is interpolated.

const SHARE = 0.5; // a cell for all pictures must keep the bound on so many of those that have it

const median = values => {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};

// Replicates of a cell are taken together by their mean.
const cellAxes = axes.map((axis, i) => [axis.name, i]).filter(([name]) => name !== "replicate" && name !== "seed").map(([, i]) => i);

// Map of cell -> Map of picture -> {value, kept, clips}.
function lookupCells(wanted, bound, least) {
  const values = columnOf(wanted), bounds = bound ? columnOf(bound) : null;
  const cells = new Map();
  for (let clip = 0; clip < data.num; clip++) {
    if (values[clip] === null || pictureOf[clip] >= pictures.numInGrid) continue;
    const key = cellAxes.map(axis => placeOf[axis][clip]).join();
    if (!cells.has(key)) cells.set(key, new Map());
    const ofCell = cells.get(key);
    const entry = ofCell.get(pictureOf[clip]) ?? { sum: 0, boundSum: 0, bounded: 0, clips: [] };
    entry.sum += values[clip];
    if (bounds && bounds[clip] !== null) entry.boundSum += bounds[clip], entry.bounded += 1;
    entry.clips.push(clip);
    ofCell.set(pictureOf[clip], entry);
  }
  for (const ofCell of cells.values()) {
    for (const entry of ofCell.values()) {
      entry.value = entry.sum / entry.clips.length;
      entry.boundValue = entry.bounded ? entry.boundSum / entry.bounded : null;
      entry.kept = least === null || !bounds || (entry.boundValue !== null && entry.boundValue >= least);
    }
  }
  return cells;
}

const goodness = (a, b) => a.miss - b.miss || b.kept - a.kept || (a.key < b.key ? -1 : 1);

function rankCells(cells, target) {
  return [...cells].map(([key, ofCell]) => {
    const entries = [...ofCell.values()];
    const kept = entries.filter(entry => entry.kept).length;
    const value = median(entries.map(entry => entry.value));
    return { key, kept, num: entries.length, value, miss: Math.abs(value - target), enough: kept >= SHARE * entries.length && kept > 0 };
  }).sort((a, b) => b.enough - a.enough || goodness(a, b));
}

function bestOfEach(cells, target) {
  const best = new Map();
  for (const [key, ofCell] of cells) {
    for (const [picture, entry] of ofCell) {
      const found = { key, value: entry.value, boundValue: entry.boundValue, kept: entry.kept, miss: Math.abs(entry.value - target), clips: entry.clips };
      const before = best.get(picture);
      if (!before || found.kept > before.kept || (found.kept === before.kept && found.miss < before.miss)) best.set(picture, found);
    }
  }
  return best;
}

const headOf = measure => (measure.unit ? `${measure.title}, ${measure.unit}` : measure.title);
const cellHeads = () => cellAxes.map(axis => make("th", { scope: "col" }, axes[axis].name));
const cellTexts = key => cellAxes.map((axis, i) => make("td", {}, axes[axis].texts[key.split(",")[i]]));
const cellWords = key => cellAxes.map((axis, i) => `${axes[axis].name} ${axes[axis].texts[key.split(",")[i]]}`).join(", ") || "the only cell";

let found = null;

function readLookup() {
  const ends = state.wanted && range(state.wanted);
  if (!ends) return null;
  const target = state.target === "" ? median(columnOf(state.wanted).filter(v => v !== null)) : Number(state.target);
  const bound = state.bound && state.bound !== state.wanted && range(state.bound) ? state.bound : "";
  const least = bound && state.least !== "" ? Number(state.least) : null;
  const cells = lookupCells(state.wanted, bound, least);
  return { ends, target, bound, least, cells, ranked: rankCells(cells, target), each: bestOfEach(cells, target) };
}

function applyPick() {
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

function sliderOf(id, ends, value) {
  const slider = byId(id);
  slider.min = ends.low;
  slider.max = ends.high;
  slider.step = (ends.high - ends.low) / 200 || 1;
  slider.value = value;
}

function drawLookup() {
  if (!byId("lookup")) return;
  found = readLookup();
  byId("lookup-body").hidden = !found;
  byId("lookup-none").hidden = Boolean(found);
  if (!found) return;
  const wanted = measureNamed(state.wanted), bound = measureNamed(found.bound);
  fillSelect("wanted", measureOptions(numbers), state.wanted);
  fillSelect("bound", [["", "nothing else"], ...measureOptions(numbers.filter(m => m.name !== state.wanted))], found.bound);
  sliderOf("target", found.ends, found.target);
  byId("target-value").textContent = withUnit(found.target, wanted);
  byId("least-label").hidden = !bound;
  if (bound) {
    sliderOf("least", range(found.bound), found.least ?? range(found.bound).low);
    byId("least-value").textContent = found.least === null ? "any" : `at least ${withUnit(found.least, bound)}`;
  }
  drawForAll(wanted, bound);
  drawForEach(wanted, bound);
}

function keptWords(one, bound) {
  return found.least === null ? plural(one.num, "picture") : `${one.kept} of ${plural(one.num, "picture")} with ${bound.title} ≥ ${figure(found.least)}`;
}

function drawForAll(wanted, bound) {
  const [best, ...others] = found.ranked;
  byId("lookup-all").replaceChildren(make("b", {}, cellWords(best.key)),
    ` makes ${withUnit(best.value, wanted)} of ${wanted.title} (median over ${keptWords(best, bound)}).`,
    best.enough ? "" : " No cell keeps the bound on half of its pictures; this one comes nearest.");
  byId("lookup-others-head").replaceChildren(...cellHeads(), ...[headOf(wanted), "pictures"].map(text => make("th", { scope: "col" }, text)));
  byId("lookup-others").replaceChildren(...others.slice(0, 4).map(one => make("tr", {}, ...cellTexts(one.key),
    make("td", {}, figure(one.value)), make("td", {}, found.least === null ? String(one.num) : `${one.kept} of ${one.num}`))));
}

function drawForEach(wanted, bound) {
  const shown = [...found.each].slice(0, 200);
  byId("lookup-each-head").replaceChildren(make("th", { scope: "col" }, "picture"), ...cellHeads(),
    ...[headOf(wanted), ...(bound ? [headOf(bound)] : [])].map(text => make("th", { scope: "col" }, text)));
  byId("lookup-each").replaceChildren(...shown.map(([picture, one]) => make("tr", {}, make("th", { scope: "row" }, pictures.id[picture]),
    ...cellTexts(one.key), make("td", {}, figure(one.value)),
    bound ? make("td", {}, `${figure(one.boundValue)}${one.kept ? "" : " (below the bound)"}`) : null)));
  const kept = [...found.each.values()].filter(one => one.kept).length;
  byId("lookup-each-note").textContent = `${kept} of ${plural(found.each.size, "picture")} ${found.least === null ? "have such a clip" : "can keep the bound"}`
    + (found.each.size > shown.length ? `; the first ${shown.length} are listed.` : ".");
}

function wireLookup() {
  if (!byId("lookup")) return;
  byId("wanted").addEventListener("change", event => change({ wanted: event.target.value, target: "" }, "lookup"));
  byId("bound").addEventListener("change", event => change({ bound: event.target.value, least: "" }, "lookup"));
  byId("target").addEventListener("input", event => change({ target: event.target.value }, "lookup"));
  byId("least").addEventListener("input", event => change({ least: event.target.value }, "lookup"));
  for (const pick of ["all", "each"]) {
    byId(`pick-${pick}`).addEventListener("click", () => {
      // the sliders go to the one cell; cells that differ from picture to picture stand in the wall of clips
      const at = pick === "all" ? cellAxes.map((axis, i) => `${axes[axis].name}:${found.ranked[0].key.split(",")[i]}`).join(",") : state.at;
      change({ pick, at, layout: pick === "all" ? "pictures" : "clips" }, "filter");
      byId("clips").scrollIntoView({ behavior: "smooth" });
    });
  }
}
