// The bar over the grid: which axes, in what order, what is filtered; and the clock's buttons.

const DEPENDENT = new Set(["x", "y", "layout", "size", "tint", "sort", "order"]);

function fillSelect(id, options, value) {
  const select = byId(id);
  select.replaceChildren(...options.map(([key, text]) => make("option", { value: key }, text)));
  select.value = value;
  select.disabled = options.length < 2;
}

const measureOptions = list => list.map(m => [m.name, m.unit && m.unit !== "bytes" ? `${m.title}, ${m.unit}` : m.title]);

function fillControls() {
  const names = axes.map(axis => [axis.name, axis.label]);
  fillSelect("x", names.length ? names : [["", "the only cell"]], state.x);
  fillSelect("y", [...names.filter(([name]) => name !== state.x), ["", "nothing"]], state.y === state.x ? "" : state.y);
  fillSelect("tint", [["", "nothing"], ...measureOptions(measures)], state.tint);
  fillSelect("sort", [["", "the table's order"], ...measureOptions(measures)], state.sort);
  for (const id of ["layout", "size", "order", "speed"]) byId(id).value = state[id];
  byId("order").closest("label").hidden = !state.sort;
  byId("query").value = state.q;
  for (const id of ["x", "y"]) byId(id).closest("label").hidden = state.layout === "clips" || (id === "y" && axes.length < 2);
  fillSliders();
  fillFilters();
}

// --- the other axes --------------------------------------------------------------------------------------------------

function fillSliders() {
  const places = sliderPlaces();
  const others = state.layout === "clips" ? [] : otherAxes();
  byId("sliders").replaceChildren(...others.map(axis => {
    const place = Math.min(places.get(axis.name) ?? 0, axis.values.length - 1);
    const shown = make("output", {}, axis.texts[place]);
    const slider = make("input", { type: "range", min: 0, max: axis.values.length - 1, step: 1, value: place,
      "aria-valuetext": axis.texts[place], "data-axis": axis.name, oninput: event => {
        shown.textContent = axis.texts[event.target.value];
        event.target.setAttribute("aria-valuetext", shown.textContent);
        places.set(axis.name, Number(event.target.value));
        change({ at: [...places].map(pair => pair.join(":")).join(",") }, "slider");
      } });
    return make("label", { class: "slider" }, make("span", {}, axis.label), slider, shown);
  }));
}

// --- filters -----------------------------------------------------------------------------------------------------------

function fillFilters() {
  byId("values").replaceChildren(...axes.map((axis, a) => make("fieldset", {}, make("legend", {}, axis.label),
    ...axis.texts.map((text, place) => make("label", { class: "chip" }, make("input", {
      type: "checkbox", checked: !hidden.some(([x, p]) => x === a && p === place), "data-axis": axis.name, "data-place": place,
      onchange: event => toggleValue(axis.name, place, event.target.checked) }), text)))));
  const [name, low, high] = state.range.split(":");
  fillSelect("range-of", [["", "no metric"], ...measureOptions(measures)], measureNamed(name) ? name : "");
  const found = measureNamed(name) ? range(name) : null;
  for (const [id, value, end] of [["range-low", low, found?.low], ["range-high", high, found?.high]]) {
    byId(id).value = found ? value : "";
    byId(id).disabled = !found;
    byId(id).placeholder = found ? figure(end) : "";
  }
  const count = passing.reduce((sum, one) => sum + one, 0);
  byId("count").textContent = count === data.num ? plural(count, "clip") : `${count.toLocaleString("en")} of ${plural(data.num, "clip")}`;
  byId("clear").hidden = count === data.num && !state.pick;
  byId("picked").hidden = !state.pick;
  byId("picked").textContent = { all: "chosen by the lookup", each: "chosen by the lookup", lacking: "missing or damaged" }[state.pick] ?? "the cell of a figure";
}

function toggleValue(name, place, isShown) {
  const kept = pairs(state.hide).filter(([axis, p]) => axis !== name || p !== place);
  if (!isShown) kept.push([name, place]);
  change({ hide: kept.map(pair => pair.join(":")).join(",") }, "filter");
}

function changeRange() {
  const name = byId("range-of").value;
  change({ range: name ? `${name}:${byId("range-low").value}:${byId("range-high").value}` : "" }, "filter");
}

const clearFilters = () => change({ q: "", hide: "", range: "", pick: "" }, "filter");

// --- wiring --------------------------------------------------------------------------------------------------------------

function wireControls() {
  for (const id of DEPENDENT) byId(id).addEventListener("change", event => change(swapped(id, event.target.value)));
  byId("speed").addEventListener("change", event => change({ speed: event.target.value }, "clock"));
  let typing = 0;
  byId("query").addEventListener("input", event => {
    clearTimeout(typing);
    typing = setTimeout(() => change({ q: event.target.value }, "filter"), 150);
  });
  byId("range-of").addEventListener("change", () => {
    byId("range-low").value = byId("range-high").value = "";
    changeRange();
  });
  for (const id of ["range-low", "range-high"]) byId(id).addEventListener("change", changeRange);
  byId("clear").addEventListener("click", clearFilters);
  for (const bar of document.querySelectorAll(".transport")) wireTransport(bar);
}

// Choosing the other axis' axis exchanges the two.
function swapped(id, value) {
  if (id === "x" && value === state.y) return { x: value, y: state.x };
  return { [id]: value };
}

function wireTransport(bar) {
  bar.querySelector(".play").addEventListener("click", () => setPlaying(!clock.playing));
  bar.querySelector(".back").addEventListener("click", () => step(-1));
  bar.querySelector(".forth").addEventListener("click", () => step(1));
  const scrub = bar.querySelector(".scrub");
  scrub.max = mostFrames - 1;
  scrub.addEventListener("input", event => goTo(Number(event.target.value)));
}

function showPlaying() {
  for (const button of document.querySelectorAll(".transport .play")) {
    button.classList.toggle("playing", clock.playing);
    button.setAttribute("aria-label", clock.playing ? "Pause" : "Play");
    button.title = clock.playing ? "Pause (space)" : "Play (space)";
  }
}
