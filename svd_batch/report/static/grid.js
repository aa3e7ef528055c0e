// The grid: pictures down, two axes across, and only the rows near the screen in the document.

const box = byId("viewport");
const canvas = byId("canvas");
const heads = byId("heads");
const HEAD_PX = 46;
const GAP_PX = 6;
const EDGE_PX = 8; // around the wall of clips
const LINE_PX = 16;
const LETTER_PX = 6.6;
const WIDEST_PX = 640;
const SIZES = { small: 88, medium: 168, large: 300 };

let view = null; // what is shown: order, columns, rows and sizes
let rowsShown = new Map(); // row number -> element
let selected = null; // a clip

const axisOf = name => axes.findIndex(axis => axis.name === name);

// The places of an axis that any clip is left at.
function shownPlaces(axis) {
  const used = new Set();
  for (let clip = 0; clip < data.num; clip++) if (passing[clip]) used.add(placeOf[axis][clip]);
  return axes[axis].values.map((_, place) => place).filter(place => used.has(place));
}

function arrange() {
  const [x, y] = [axisOf(state.x), state.y === state.x ? -1 : axisOf(state.y)];
  const places = sliderPlaces();
  const base = axes.map((axis, i) => (i === x || i === y ? 0 : Math.min(places.get(axis.name) ?? 0, axis.values.length - 1)));
  const byClip = state.layout === "clips";
  view = { x, y, base, byClip, columns: x < 0 ? [0] : shownPlaces(x), lines: y < 0 ? [0] : shownPlaces(y) };
  view.clips = byClip ? sortedClips() : [];
  view.order = byClip ? [] : sortedPictures();
  measureSizes();
  drawHeads();
  rowsShown.forEach(release);
  rowsShown.clear();
  canvas.replaceChildren();
  canvas.style.height = `${view.numRows ? topOf(view.numRows) : 120}px`;
  canvas.style.minWidth = `${view.label + view.numColumns * (view.clip + GAP_PX)}px`;
  byId("nothing").hidden = view.numRows > 0;
  draw();
}

function measureSizes() {
  const inside = box.clientWidth - 2 - (view.byClip ? 2 * EDGE_PX : 0);
  view.label = view.byClip ? 0 : view.y < 0 ? (inside < 500 ? 8 : 16) : inside < 500 ? 52 : 84;
  const wide = inside < 500 ? 104 : 208;
  if (view.byClip) view.numColumns = Math.max(1, Math.floor(inside / ((SIZES[state.size] ?? wide) + GAP_PX)));
  else view.numColumns = Math.max(1, view.columns.length);
  const fitting = Math.floor((inside - view.label) / view.numColumns) - GAP_PX;
  const least = inside < 500 ? 72 : 88;
  const bars = [...box.parentElement.children].reduce((sum, child) => sum + (child === box ? 0 : child.offsetHeight), 0);
  const room = Math.max(innerHeight - 60, 540) - bars - 100; // of the lines: what bars and headings leave
  const widthFor = lines => Math.min(WIDEST_PX, Math.max(150, (room / Math.min(lines, view.lines.length) - 30) * widest));
  const fills = width => view.label + view.numColumns * (width + GAP_PX) >= 0.9 * inside;
  const lines = inside > 1500 ? [3, 2, 1.35] : [3, 2]; // so many are in sight: the fewer, the larger
  const most = lines.map(widthFor).find(fills) ?? widthFor(lines.at(-1));
  view.clip = SIZES[state.size] && !view.byClip ? SIZES[state.size] : Math.round(Math.min(Math.max(fitting, least), view.byClip ? 400 : most));
  view.high = Math.round(view.clip / widest);
  const linesBelow = view.byClip ? linesUnder(view.clip) : 0;
  view.row = view.high + GAP_PX + (state.tint || state.sort ? 22 : 0) + (view.byClip ? (1 + linesBelow) * LINE_PX + 4 : 0);
  view.head = view.byClip ? 0 : HEAD_PX;
  view.perPicture = view.byClip ? 1 : view.lines.length + 1;
  view.numRows = view.byClip ? Math.ceil(view.clips.length / view.numColumns) : view.order.length * view.perPicture;
  box.style.setProperty("--clip", `${view.clip}px`);
  box.style.setProperty("--high", `${view.high}px`);
  box.style.setProperty("--label", `${view.label}px`);
  box.style.setProperty("--edge", `${view.byClip ? EDGE_PX : 0}px`);
  box.style.setProperty("--lines", linesBelow);
}

// So many lines the values of a clip's axes need below it, about.
function linesUnder(width) {
  const perLine = Math.max(1, Math.floor(width / LETTER_PX));
  const lengths = axes.map(axis => axis.name.length + 3 + Math.max(...axis.texts.map(text => text.length)));
  return Math.min(6, Math.max(1, lengths.reduce((sum, length) => sum + Math.ceil(length / perLine), 0)));
}

// --- order ---------------------------------------------------------------------------------------------------------

function sortedPictures() {
  const sums = new Float64Array(pictures.id.length), counts = new Float64Array(pictures.id.length);
  const values = state.sort ? columnOf(state.sort) : null;
  for (let clip = 0; clip < data.num; clip++) {
    if (!passing[clip] || pictureOf[clip] >= pictures.numInGrid) continue;
    const value = values ? values[clip] : 0;
    if (value === null) counts[pictureOf[clip]] ||= 1e-9; // is there, and has nothing to be sorted by
    else {
      sums[pictureOf[clip]] += Number(value);
      counts[pictureOf[clip]] += 1;
    }
  }
  view.means = Array.from(sums, (sum, i) => (counts[i] >= 1 ? sum / counts[i] : null));
  const order = [...counts.keys()].filter(picture => counts[picture] > 0);
  return values ? order.sort((a, b) => compareValues(view.means[a], view.means[b]) || a - b) : order;
}

function sortedClips() {
  const clips = [...passing.keys()].filter(clip => passing[clip]);
  if (!state.sort) return clips;
  const values = columnOf(state.sort);
  return clips.sort((a, b) => compareValues(values[a], values[b]) || a - b);
}

function compareValues(a, b) {
  if (a === null || b === null) return (a === null) - (b === null); // the unmeasured come last either way
  return state.order === "high" ? b - a : a - b;
}

// --- rows ----------------------------------------------------------------------------------------------------------

function topOf(row) {
  if (view.byClip) return EDGE_PX + row * view.row;
  const [block, line] = [Math.floor(row / view.perPicture), row % view.perPicture];
  return block * (view.head + view.lines.length * view.row) + (line ? view.head + (line - 1) * view.row : 0);
}

function rowAt(top) {
  if (view.byClip) return Math.max(0, Math.floor((top - EDGE_PX) / view.row));
  const period = view.head + view.lines.length * view.row;
  const rest = top % period;
  return Math.floor(top / period) * view.perPicture + (rest < view.head ? 0 : 1 + Math.floor((rest - view.head) / view.row));
}

// The clip at a place of the grid, or undefined; `column` counts what is shown.
function clipIn(row, column) {
  if (view.byClip) return view.clips[row * view.numColumns + column];
  const line = row % view.perPicture;
  const picture = view.order[Math.floor(row / view.perPicture)];
  if (!line || picture === undefined || column >= view.columns.length) return undefined;
  const places = [...view.base];
  if (view.x >= 0) places[view.x] = view.columns[column];
  if (view.y >= 0) places[view.y] = view.lines[line - 1];
  return clipAt.get(cellKey(picture, places));
}

function draw() {
  if (!view) return;
  view.seen = box.clientHeight;
  drawAt(box.scrollTop);
}

// Have the rows near the screen in the document, when it is scrolled to `top`; asks nothing of the layout.
function drawAt(top) {
  if (!view || !view.numRows) return;
  const first = Math.max(0, rowAt(Math.max(0, top - view.seen * 0.5)));
  const last = Math.min(view.numRows - 1, rowAt(top + view.seen * 1.5));
  if (first === view.first && last === view.last) return;
  [view.first, view.last] = [first, last];
  for (const [row, element] of rowsShown) {
    if (row < first || row > last) {
      release(element);
      element.remove();
      rowsShown.delete(row);
    }
  }
  for (let row = first; row <= last; row++) {
    if (rowsShown.has(row)) continue;
    const element = !view.byClip && row % view.perPicture === 0 ? headRow(row) : clipRow(row);
    element.style.top = `${topOf(row)}px`;
    element.setAttribute("aria-rowindex", row + 1);
    let after = row + 1; // in order also for those who don't see
    while (after <= last && !rowsShown.has(after)) after++;
    canvas.insertBefore(element, rowsShown.get(after) ?? null);
    rowsShown.set(row, element);
  }
}

function headRow(row) {
  const picture = view.order[row / view.perPicture];
  const mean = state.sort ? view.means[picture] : null;
  const value = mean === null ? "" : `${measureNamed(state.sort).title} ${withUnit(mean, { ...measureNamed(state.sort), isFlag: false })}`;
  const [id, caption] = [pictures.id[picture], pictures.caption[picture]];
  return make("div", { class: "row head", role: "row" }, make("div", { class: "picture", role: "rowheader" },
    make("b", {}, id), caption && caption !== id ? make("span", { class: "soft", title: caption }, caption) : null,
    value ? make("span", { class: "value" }, value) : null));
}

function clipRow(row) {
  const element = make("div", { class: "row", role: "row" });
  if (!view.byClip) {
    const line = row % view.perPicture - 1;
    const text = view.y < 0 ? "" : axes[view.y].texts[view.lines[line]];
    element.append(make("div", { class: "line-label", role: "rowheader" }, text));
  }
  for (let column = 0; column < view.numColumns; column++) {
    if (view.byClip && row * view.numColumns + column >= view.clips.length) break;
    element.append(cellElement(clipIn(row, column)));
  }
  return element;
}

function cellElement(clip) {
  if (clip === undefined) return make("div", { class: "cell hole", role: "gridcell" }, make("span", {}, "not made"));
  if (!passing[clip]) return make("div", { class: "cell hole", role: "gridcell" }, make("span", {}, "filtered out"));
  const told = [...new Set([state.sort, state.tint])].filter(Boolean); // the strip's number is what clips are sorted by
  const words = told.map(name => `${measureNamed(name).title} ${withUnit(columnOf(name)[clip], measureNamed(name))}`).join(", ");
  const cell = make("div", { class: "cell", role: "gridcell", tabindex: clip === selected ? "0" : "-1",
    "aria-label": `${pictureName(clip)}, ${cellText(clip, ", ")}${words && `, ${words}`}` },
    clipElement(clip, box));
  cell.clip = clip;
  if (clip === selected) cell.classList.add("selected");
  if (marked === clip) cell.classList.add("marked");
  if (words) cell.append(valueStrip(state.tint, told[0], clip, words));
  if (view.byClip) cell.append(make("div", { class: "under" }, make("b", {}, pictureName(clip)), make("span", {}, ...breakable(cellText(clip)))));
  return cell;
}

// The colour is one measure's, the number may be another's.
function valueStrip(tint, name, clip, title) {
  const bar = make("i", { "aria-hidden": "true" });
  bar.style.background = tint ? colourOf(tint, columnOf(tint)[clip]) : "transparent";
  return make("div", { class: "value-strip", title }, bar, make("span", {}, figure(columnOf(name)[clip])));
}

function drawHeads() {
  heads.hidden = view.byClip || view.x < 0;
  if (heads.hidden) return;
  const named = view.columns.map(place => make("div", { class: "column-label", role: "columnheader" }, axes[view.x].texts[place]));
  const corner = make("div", { class: "corner" }, `${view.y < 0 ? "" : `${axes[view.y].label} ↓  `}${axes[view.x].label} →`);
  heads.replaceChildren(corner, make("div", { class: "column-labels", role: "row" }, make("div", { class: "line-label" }), ...named));
}

// --- selection -------------------------------------------------------------------------------------------------------

const elementOf = clip => [...canvas.querySelectorAll(".cell")].find(cell => cell.clip === clip);

function select(clip, focus = true) {
  const before = selected === null ? null : elementOf(selected);
  before?.classList.remove("selected");
  before?.setAttribute("tabindex", "-1");
  selected = clip;
  const cell = elementOf(clip);
  cell?.classList.add("selected");
  cell?.setAttribute("tabindex", "0");
  if (focus) cell?.focus({ preventScroll: true });
}

function placeOfSelected() {
  for (const [row, element] of rowsShown) {
    const cells = [...element.querySelectorAll(".cell")];
    const column = cells.findIndex(cell => cell.clip === selected);
    if (column >= 0) return [row, column];
  }
  return null;
}

// Select the next clip in a direction; holes and the pictures' names are passed over.
function moveSelection(down, right) {
  const place = selected === null ? null : placeOfSelected();
  let [row, column] = place ?? [rowAt(box.scrollTop) - (down > 0 ? 1 : 0), right > 0 ? -1 : 0];
  for (let tries = 0; tries < 400; tries++) {
    row += down;
    column += right;
    if (row < 0 || row >= view.numRows || column < 0 || column >= view.numColumns) return;
    const clip = clipIn(row, column);
    if (clip !== undefined && passing[clip]) return reveal(row, clip);
    if (!place && right) down = 1, right = 0, column = 0;
  }
}

// Go to the next picture; in the wall of clips to the next clip.
function movePicture(by) {
  const place = selected === null ? null : placeOfSelected();
  if (view.byClip) return moveSelection(0, by);
  const block = place ? Math.floor(place[0] / view.perPicture) + by : Math.floor(rowAt(box.scrollTop) / view.perPicture);
  if (block < 0 || block >= view.order.length) return;
  for (let line = 1; line < view.perPicture; line++) {
    for (let column = 0; column < view.numColumns; column++) {
      const clip = clipIn(block * view.perPicture + line, column);
      if (clip !== undefined && passing[clip]) return reveal(block * view.perPicture + line, clip, block * view.perPicture);
    }
  }
}

function reveal(row, clip, from = row) {
  const [top, bottom] = [topOf(from), topOf(row) + view.row];
  const head = heads.hidden ? 0 : heads.offsetHeight;
  const fits = box.clientHeight - head;
  if (top < box.scrollTop) box.scrollTop = Math.max(0, top - (from === row ? view.head : 0));
  else if (bottom > box.scrollTop + fits) box.scrollTop = Math.min(top, bottom - fits);
  draw();
  select(clip);
  elementOf(clip)?.scrollIntoView({ block: "nearest", inline: "nearest" });
}
