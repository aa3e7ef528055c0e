// The page's data, unpacked: typed columns by name, each an array with an entry a clip. See columns.py for the forms.

const data = JSON.parse(document.getElementById("data").textContent);
const axes = data.axes;
const measures = data.measures;
const numbers = measures.filter(m => !m.isFlag);
const pictures = data.pictures;

function unpack(column, ofClip) {
  if (!column) return Array(data.num).fill(null);
  if ("same" in column) return Array(data.num).fill(column.same);
  if (column.picture) return Array.from({ length: data.num }, (_, i) => column.values[ofClip[i]]);
  return column.index ? column.index.map(i => column.values[i]) : column.each;
}

// `picture` may itself be packed as one value a clip, so it is unpacked first and without itself
const pictureOf = unpack(data.picture, Array.from({ length: data.num }, (_, i) => i));
const unpacked = new Map();

function columnOf(name) {
  if (!unpacked.has(name)) unpacked.set(name, unpack(data.columns[name], pictureOf));
  return unpacked.get(name);
}

const folderOf = unpack(data.folder, pictureOf);
const suffixOf = unpack(data.suffix, pictureOf);
const posterOwner = unpack(data.poster, pictureOf); // in a large page a picture's clips share one
const placeOf = axes.map(axis => unpack(data.places[axis.name], pictureOf)); // [axis][clip] -> position on the axis
const isMissing = new Set(data.missing);
const isDamaged = new Set(); // clips that the browser couldn't play
const framesOf = columnOf("num_frames");
const rateOf = columnOf("playback_fps");

const mostFrames = framesOf.reduce((most, n) => Math.max(most, n || 1), 1);
// one loop of the clock lasts as long as the longest clip
const loopS = framesOf.reduce((most, n, i) => Math.max(most, (n || 1) / (rateOf[i] || 7)), 0.1);
const clipsDiffer = new Set(framesOf.map((n, i) => `${n}/${rateOf[i]}`)).size > 1;
const widest = framesOf.reduce((most, _, i) => Math.max(most, (columnOf("width")[i] || 16) / (columnOf("height")[i] || 9)), 0.2);

function fileOf(clip) {
  if (data.embedded) return data.embedded[clip];
  if (data.signed[clip]) return data.signed[clip];
  const id = data.video_id[clip];
  const name = data.file[clip] ?? `videos/${id.slice(0, 2)}/${id}.${suffixOf[clip]}`;
  return data.folders[folderOf[clip]].href + name.split("/").map(encodeURIComponent).join("/");
}

function posterOf(clip) {
  const owner = posterOwner[clip];
  if (owner === null || (owner !== clip && suffixOf[clip] === "mkv")) return null; // what never plays shows its own or none
  const id = data.video_id[owner];
  return `${data.folders[folderOf[owner]].href}.svd_batch/posters/${id.slice(0, 2)}/${id}.jpg`;
}

// --- the grid's cells: from picture and axis positions to a clip ------------------------------------------------

const clipAt = new Map();

function cellKey(picture, places) {
  return places.reduce((key, place, axis) => key * axes[axis].values.length + place, picture);
}

for (let clip = 0; clip < data.num; clip++) clipAt.set(cellKey(pictureOf[clip], placeOf.map(of => of[clip])), clip);

// --- words --------------------------------------------------------------------------------------------------------

const NO_BREAK = "\u00a0"; // between a number and its unit; typeset.py does the same
const withMinus = number => String(number).replaceAll("-", "−"); // for those who read; never for what is copied

for (const axis of axes) axis.texts = axis.texts.map((text, place) => (typeof axis.values[place] === "number" ? withMinus(text) : text));

function figure(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return withMinus(value.toPrecision(3));
  if (Number.isInteger(value)) return withMinus(value);
  return withMinus(value.toFixed(size < 1 ? 3 : size < 100 ? 2 : 1));
}

function withUnit(value, measure) {
  if (value === null || value === undefined) return "not measured";
  if (measure.isFlag) return value ? "yes" : "no";
  if (measure.unit === "bytes") return value < 1024 ? `${value}${NO_BREAK}bytes` : `${(value / 1024).toFixed(1)}${NO_BREAK}KiB`;
  return measure.unit ? `${figure(value)}${NO_BREAK}${measure.unit}` : figure(value);
}

function textOf(name, clip) {
  const column = data.columns[name];
  const value = columnOf(name)[clip];
  if (value === null || value === undefined) return "null";
  if (column.kind === "time") return new Date(value).toISOString().replace("T", " ").replace(".000Z", "Z");
  if (column.kind === "flag") return value ? "true" : "false";
  return typeof value === "number" ? withMinus(value) : String(value);
}

function cellText(clip, separator = " · ") {
  return axes.map((axis, i) => `${axis.name} ${axis.texts[placeOf[i][clip]]}`).join(separator) || "the only cell";
}

const measureNamed = name => measures.find(m => m.name === name);
const pictureName = clip => pictures.id[pictureOf[clip]];
const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}

// A text that may go on in the next line behind each underscore, where a name is too long for one.
const breakable = text => text.split(/(?<=_)/).flatMap((part, i) => (i ? [make("wbr"), part] : [part]));

const byId = id => document.getElementById(id);
