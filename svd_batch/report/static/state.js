// What the person has chosen, kept in the address after the #, so that a reload (or a sent link) shows the same.

const DEFAULTS = {
  x: axes[0]?.name ?? "",
  y: axes[1]?.name ?? "",
  at: "", // positions of the other axes' sliders, as axis:position,…
  layout: axes.length ? "pictures" : "clips",
  size: "fit",
  tint: numbers.find(m => m.isMetric)?.name ?? "",
  sort: "",
  order: "high",
  q: "",
  hide: "", // values that are filtered out, as axis:position,…
  range: "", // as measure:low:high
  pick: "", // "all" or "each": only the lookup's cells; "lacking": clips without a file that plays; or the cell of a figure, as axis:position,…
  wanted: numbers.find(m => m.name === "motion")?.name ?? numbers.find(m => m.isMetric)?.name ?? "",
  aim: "near", // or "most", "least"
  target: "",
  bounds: numbers.some(m => m.name === "likeness") ? "likeness:least:" : "", // as measure:side:value,…; see lookup.js
  speed: "1",
  play: window.matchMedia("(prefers-reduced-motion: reduce)").matches ? "0" : "1",
  outlier: "",
  top: "0",
  page: "0",
};

const state = { ...DEFAULTS };
const listeners = [];

function readState() {
  const given = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(DEFAULTS)) if (given.has(name)) state[name] = given.get(name);
  const names = axes.map(axis => axis.name);
  if (state.x && !names.includes(state.x)) state.x = DEFAULTS.x;
  if (state.y && !names.includes(state.y)) state.y = DEFAULTS.y;
  for (const name of ["tint", "sort", "wanted"]) if (!measureNamed(state[name])) state[name] = DEFAULTS[name];
  if (!["near", "most", "least"].includes(state.aim)) state.aim = "near";
  if (state.pick === "lacking" && !isMissing.size) state.pick = ""; // which can't be played is known once they were loaded
}

let writing = 0;

function writeState() {
  clearTimeout(writing);
  writing = setTimeout(writeStateNow, 200);
}

function writeStateNow() {
  const changed = Object.entries(state).filter(([name, value]) => String(value) !== DEFAULTS[name]);
  const hash = changed.length ? `#${new URLSearchParams(changed)}` : location.pathname + location.search;
  try {
    history.replaceState(null, "", hash);
  } catch {
    location.replace(hash); // some browsers let no page of file:// change its history
  }
}

// Set some of the state; `what` tells listeners how much has changed: "view", "clock", "lookup" or "scroll".
function change(values, what = "view") {
  Object.assign(state, values);
  writeState();
  for (const listener of listeners) listener(what);
}

const onChange = listener => listeners.push(listener);

function pairs(text) {
  return text.split(",").filter(Boolean).map(part => {
    const cut = part.lastIndexOf(":");
    return [part.slice(0, cut), Number(part.slice(cut + 1))];
  });
}

const sliderPlaces = () => new Map(pairs(state.at));
const otherAxes = () => axes.filter(axis => axis.name !== state.x && axis.name !== state.y);

// --- which clips pass the filters -----------------------------------------------------------------------------------

let pickedClips = null; // set by the lookup: the clips that it chose, or null
let words = [];

function passes(clip) {
  if (pickedClips && !pickedClips.has(clip)) return false;
  for (const [axis, place] of hidden) if (placeOf[axis][clip] === place) return false;
  if (limits) {
    const value = columnOf(limits.name)[clip];
    if (value === null || value < limits.low || value > limits.high) return false;
  }
  if (!words.length) return true;
  const text = `${pictureName(clip)} ${pictures.caption[pictureOf[clip]]}`.toLowerCase();
  return words.every(word => text.includes(word));
}

let hidden = [];
let limits = null;
let passing = new Uint8Array(data.num);

function refilter() {
  hidden = pairs(state.hide).map(([name, place]) => [axes.findIndex(axis => axis.name === name), place]).filter(([axis]) => axis >= 0);
  const [name, low, high] = state.range.split(":");
  limits = measureNamed(name) ? { name, low: low === "" ? -Infinity : Number(low), high: high === "" ? Infinity : Number(high) } : null;
  words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  passing = Uint8Array.from({ length: data.num }, (_, clip) => Number(passes(clip)));
}
