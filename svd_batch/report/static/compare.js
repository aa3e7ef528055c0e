// Two clips in step: side by side, or one over the other with a divider that is dragged.

const compareWindow = byId("compare");
const sides = [null, null]; // clips
let marked = null; // the first of two clips to compare

// Mark a clip for comparing; the second one opens the window, the same one again is unmarked.
function mark(clip) {
  if (marked === null || marked === clip) {
    const before = marked;
    marked = before === clip ? null : clip;
    if (before !== null) elementOf(before)?.classList.remove("marked");
    if (marked !== null) elementOf(marked)?.classList.add("marked");
    byId("marked").hidden = marked === null;
    if (marked !== null) byId("marked-name").textContent = `${pictureName(clip)}, ${cellText(clip)}`;
    return;
  }
  const first = marked;
  mark(first);
  openCompare(first, clip);
}

function openCompare(first, second) {
  sides[0] = first;
  sides[1] = second;
  drawCompare();
  openWindow(compareWindow, "compare");
}

function drawCompare() {
  const stage = compareWindow.querySelector(".stage");
  release(compareWindow);
  const swipes = byId("swipe").checked;
  stage.classList.toggle("swipe", swipes);
  byId("divider-label").hidden = !swipes;
  stage.replaceChildren(...sides.map(clip => clipElement(clip, compareWindow, "compare")));
  setShape(stage, sides[0]);
  if (swipes) stage.append(make("div", { class: "divider", "aria-hidden": "true" }));
  moveDivider();
  sides.forEach((clip, side) => byId(`side-${side}`).replaceChildren(...sideControls(clip, side)));
  const differing = measures.map(m => [m, ...sides.map(clip => columnOf(m.name)[clip])]).filter(([, a, b]) => a !== null || b !== null);
  byId("compare-metrics").replaceChildren(...differing.map(([m, a, b]) => make("tr", {}, make("th", { scope: "row" }, m.title),
    make("td", {}, withUnit(a, m)), make("td", {}, withUnit(b, m)),
    make("td", {}, a === null || b === null || m.isFlag ? "" : `${b > a ? "+" : ""}${figure(b - a)}`))));
}

function sideControls(clip, side) {
  const set = next => {
    if (next === undefined) return;
    sides[side] = next;
    drawCompare();
  };
  const places = placeOf.map(of => of[clip]);
  const chooser = (text, options, value, chosen) => {
    const select = make("select", { onchange: event => set(chosen(Number(event.target.value))) },
      ...options.map(([key, label, isThere]) => make("option", { value: key, disabled: !isThere }, label)));
    select.value = value;
    return make("label", {}, make("span", {}, text), select);
  };
  const at = (axis, place) => clipAt.get(cellKey(pictureOf[clip], places.map((p, i) => (i === axis ? place : p))));
  const inCell = pictures.id.map((id, p) => [p, id, clipAt.has(cellKey(p, places))]).filter(([p, , isThere]) => isThere && p < 2000);
  return [
    chooser("picture", inCell, pictureOf[clip], p => clipAt.get(cellKey(p, places))),
    ...axes.map((axis, i) => chooser(axis.label, axis.texts.map((text, p) => [p, text, at(i, p) !== undefined]), places[i], p => at(i, p))),
  ];
}

function moveDivider() {
  const share = byId("divider").value;
  const stage = compareWindow.querySelector(".stage");
  stage.style.setProperty("--share", `${share}%`);
}

function wireCompare() {
  for (const id of ["beside", "swipe"]) byId(id).addEventListener("change", drawCompare);
  byId("divider").addEventListener("input", moveDivider);
  const stage = compareWindow.querySelector(".stage");
  const drag = event => {
    if (!stage.classList.contains("swipe") || !(event.buttons & 1)) return;
    const at = stage.getBoundingClientRect();
    byId("divider").value = Math.round(Math.min(Math.max((event.clientX - at.left) / at.width, 0), 1) * 100);
    moveDivider();
    event.preventDefault();
  };
  stage.addEventListener("pointerdown", event => {
    drag(event);
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", drag);
  byId("unmark").addEventListener("click", () => marked !== null && mark(marked));
}
