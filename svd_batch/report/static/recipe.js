// The command and the script of a clip, from the templates that recipes.py made: text and slots in turn.

const recipe = data.recipes;
const recipeColumns = new Map();

function recipeColumn(name, column) {
  if (!recipeColumns.has(name)) recipeColumns.set(name, unpack(column, pictureOf));
  return recipeColumns.get(name);
}

function slotOf(name, clip) {
  if (name === "video_id") return data.video_id[clip];
  if (name === "short_id") return data.video_id[clip].slice(0, 8);
  if (name === "opening") return recipe.openings[recipeColumn("opening", recipe.opening)[clip]];
  return recipeColumn(`slot ${name}`, recipe.slots[name])[clip];
}

// The text, or null where the folder doesn't say enough to write it; `kind` is command or script.
function recipeText(kind, clip) {
  const template = recipeColumn(kind, recipe[kind])[clip];
  if (template === null) return null;
  return recipe.templates[template].map((piece, i) => (i % 2 ? slotOf(piece, clip) : piece)).join("");
}

function recipeNote(clip) {
  const note = recipeColumn("note", recipe.note)[clip];
  return note === null ? "The folder doesn't say how it was made (run.json)." : recipe.notes[note];
}
