// Colours of values: viridis, which is even in lightness and safe for all kinds of colour blindness; light and dark.

const VIRIDIS = [
  [68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137], [53, 183, 121], [109, 205, 89],
  [180, 222, 44], [253, 231, 37],
];

function viridis(share) {
  const place = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(place), VIRIDIS.length - 2);
  const mixed = VIRIDIS[low].map((value, i) => Math.round(value + (VIRIDIS[low + 1][i] - value) * (place - low)));
  return `rgb(${mixed.join(" ")})`;
}

const ends = new Map();

// The range of a measure over the page's clips, without the outermost hundredth on either side.
function range(name) {
  if (!ends.has(name)) {
    const values = columnOf(name).filter(value => value !== null).sort((a, b) => a - b);
    const at = share => values[Math.round(share * (values.length - 1))];
    ends.set(name, values.length ? { low: at(0), high: at(1), from: at(0.01), to: at(0.99) } : null);
  }
  return ends.get(name);
}

function colourOf(name, value) {
  const found = range(name);
  if (value === null || !found) return "transparent";
  return viridis(found.to > found.from ? (value - found.from) / (found.to - found.from) : 0.5);
}

function applyTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : window.matchMedia("(prefers-color-scheme: dark)").matches;
}

function toggleTheme() {
  const theme = isDark() ? "light" : "dark";
  applyTheme(theme);
  try {
    localStorage.setItem("svd_batch-theme", theme);
  } catch { /* no storage on this page: it forgets */ }
}

function storedTheme() {
  try {
    return localStorage.getItem("svd_batch-theme");
  } catch {
    return null;
  }
}
