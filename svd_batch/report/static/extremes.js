// The clips that stand out: lowest and highest of a measure, how all are spread, and those that are flagged.

const SVG = "http://www.w3.org/2000/svg";

function tile(clip, name) {
  const element = make("button", { type: "button", class: "tile", "aria-label": `${pictureName(clip)}, ${cellText(clip, ", ")}`, onclick: () => openLarge(clip) },
    clipElement(clip, null), name ? valueStrip(name, name, clip) : null,
    make("span", { class: "under" }, make("b", {}, pictureName(clip)), make("span", {}, ...breakable(cellText(clip)))));
  element.clip = clip;
  return element;
}

function histogram(one, measure) {
  const top = Math.max(...one.counts);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${one.counts.length} 100`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `How ${measure.title} is spread over the videos`);
  one.counts.forEach((count, i) => {
    const bar = document.createElementNS(SVG, "rect");
    const high = 100 * count / top;
    for (const [name, value] of Object.entries({ x: i + 0.08, y: 100 - high, width: 0.84, height: high })) bar.setAttribute(name, value);
    bar.setAttribute("fill", colourOf(one.name, one.ends[0] + (i + 0.5) / one.counts.length * (one.ends[1] - one.ends[0])));
    svg.append(bar);
  });
  return svg;
}

function drawExtremes() {
  if (!byId("outlier")) return;
  const all = data.extremes.measures;
  const one = all.find(m => m.name === state.outlier) ?? all.find(m => m.name === DEFAULTS.tint) ?? all[0];
  if (!one) return;
  const measure = measureNamed(one.name);
  fillSelect("outlier", measureOptions(all.map(m => measureNamed(m.name))), one.name);
  const words = { high: ["Highest, the best", "Lowest, the worst"], low: ["Highest, the worst", "Lowest, the best"] }[measure.better] ?? ["Highest", "Lowest"];
  byId("high-title").textContent = words[0];
  byId("low-title").textContent = words[1];
  for (const end of ["low", "high"]) {
    release(byId(`${end}-clips`));
    byId(`${end}-clips`).replaceChildren(...one[end].map(clip => tile(clip, one.name)));
  }
  byId("histogram").replaceChildren(histogram(one, measure));
  byId("histogram-low").textContent = withUnit(one.ends[0], measure);
  byId("histogram-high").textContent = withUnit(one.ends[1], measure);
  byId("histogram-middle").textContent = `median ${withUnit(one.median, measure)}${one.numNull ? `; ${plural(one.numNull, "video")} not measured` : ""}`;
}

function drawFlags() {
  byId("flags")?.replaceChildren(...data.extremes.flags.map(flag => make("div", {}, make("h3", {}, `${flag.count.toLocaleString("en")} ${flag.title}`),
    make("p", { class: "soft" }, `of ${plural(flag.num, "measured video")}${flag.count > flag.clips.length ? `; the first ${flag.clips.length} are shown` : ""}`),
    make("div", { class: "tiles" }, ...flag.clips.map(clip => tile(clip, null))))));
}
