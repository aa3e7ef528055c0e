// Figures whose cells show their clips in the grid, by a click or by keys: Tab stops once a figure, arrows walk in it.

// Show one cell of a figure in the grid; `cell` is {axis: value}.
function showCell(cell) {
  const places = Object.entries(cell).map(([name, value]) => [name, axes.find(axis => axis.name === name)?.values.indexOf(value) ?? -1]);
  const known = places.filter(([, place]) => place >= 0);
  if (known.length) {
    const text = known.map(pair => pair.join(":")).join(",");
    change({ pick: text, at: text, layout: "pictures" }, "filter");
  }
  byId("clips").scrollIntoView({ behavior: "smooth" });
}

const showFigureCell = cell => showCell(JSON.parse(cell.dataset.cell));

// Make a cell the one of its figure that Tab stops at, and have it say its values and its figure.
function makeStop(cell) {
  cell.closest("table, svg").querySelector("[data-cell][tabindex='0']")?.setAttribute("tabindex", "-1");
  cell.setAttribute("tabindex", "0");
  if (cell.matches("td")) cell.setAttribute("aria-label", cell.title);
  if (cell.matches("tr")) {
    const heads = cell.closest("table").tHead.rows[0].cells;
    cell.setAttribute("aria-label", [...cell.cells].map((one, i) => `${heads[i].textContent} ${one.textContent || "none"}`).join(", "));
  }
}

// The cells in which an arrow walks: those beside the cell, or above and below it, in their order on the screen.
function lineOf(cell, isAcross) {
  if (cell.matches("td")) {
    const line = isAcross ? [...cell.parentElement.cells] : [...cell.closest("tbody").rows].map(row => row.cells[cell.cellIndex]);
    return line.filter(one => one.dataset.cell);
  }
  const all = [...cell.closest("tbody, svg").querySelectorAll("[data-cell]")];
  if (cell.matches("tr")) return isAcross ? [cell] : all;
  const at = dot => Number(dot.querySelector("circle").getAttribute(isAcross ? "cx" : "cy"));
  return all.sort((a, b) => at(a) - at(b));
}

// Do what a key does on a cell of a figure; return whether it did anything.
function figureKey(event) {
  const cell = event.target.closest?.("[data-cell]");
  if (!cell) return false;
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    showFigureCell(cell);
    box.focus({ preventScroll: true });
    return true;
  }
  const line = lineOf(cell, !["ArrowUp", "ArrowDown"].includes(event.key));
  const here = line.indexOf(cell);
  const to = { ArrowLeft: here - 1, ArrowUp: here - 1, ArrowRight: here + 1, ArrowDown: here + 1, Home: 0, End: line.length - 1 }[event.key];
  if (to === undefined) return false;
  event.preventDefault();
  if (line[to]) {
    makeStop(line[to]);
    line[to].focus();
  }
  return true;
}

function wireFigures() {
  for (const figure of document.querySelectorAll(".answer :is(table, svg)")) {
    const first = figure.querySelector("[data-cell]");
    if (first) makeStop(first);
  }
  document.addEventListener("click", event => {
    const cell = event.target.closest("[data-cell]");
    if (!cell) return;
    makeStop(cell);
    showFigureCell(cell);
  });
}
