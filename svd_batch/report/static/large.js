// One clip, large, with all that is known of it and how to make it again.

const largeWindow = byId("large");
let largeClip = null;

function openLarge(clip) {
  largeClip = clip;
  const stage = largeWindow.querySelector(".stage");
  release(largeWindow);
  const element = clipElement(clip, largeWindow, "large");
  setShape(stage, clip);
  stage.replaceChildren(element);
  byId("large-title").textContent = pictureName(clip);
  byId("large-caption").textContent = pictures.caption[pictureOf[clip]];
  byId("large-file").textContent = data.video_id[clip];
  byId("large-file").href = fileOf(clip);
  if (data.embedded) byId("large-file").download = `${data.video_id[clip]}.${suffixOf[clip]}`; // browsers don't open data: links
  byId("large-axes").replaceChildren(...axes.map((axis, i) => axisStepper(axis, i, clip)));
  byId("large-metrics").replaceChildren(...rows(measuredRows(clip)));
  byId("large-parameters").replaceChildren(...rows(Object.keys(data.columns).map(name => [name, textOf(name, clip)])));
  for (const kind of ["command", "script"]) {
    const text = recipeText(kind, clip);
    byId(`large-${kind}`).textContent = text ?? recipeNote(clip);
    byId(`copy-${kind}`).hidden = text === null;
  }
  openWindow(largeWindow, "large");
}

// The clip that differs by one step on an axis; holes are passed over.
function neighbour(clip, axis, by) {
  const places = placeOf.map(of => of[clip]);
  for (places[axis] += by; places[axis] >= 0 && places[axis] < axes[axis].values.length; places[axis] += by) {
    const found = clipAt.get(cellKey(pictureOf[clip], places));
    if (found !== undefined) return found;
  }
  return null;
}

function axisStepper(axis, i, clip) {
  const button = (by, sign, word) => {
    const next = neighbour(clip, i, by);
    return make("button", { type: "button", class: "small", disabled: next === null, "aria-label": `${word} ${axis.label}`,
      onclick: () => { openLarge(next); byId("large-axes").children[i].querySelectorAll("button")[by > 0 ? 1 : 0].focus(); } }, sign);
  };
  return make("div", { class: "stepper" }, make("span", {}, axis.label), button(-1, "‹", "lower"), make("b", {}, axis.texts[placeOf[i][clip]]),
    button(1, "›", "higher"));
}

// Arrow keys in the window: the first shown axis sideways, the second up and down.
function stepLarge(down, right) {
  const axis = right ? view.x : view.y;
  const next = axis >= 0 ? neighbour(largeClip, axis, right || down) : null;
  if (next !== null) openLarge(next);
}

function wireLarge() {
  for (const kind of ["command", "script"]) {
    byId(`copy-${kind}`).addEventListener("click", event => copy(byId(`large-${kind}`).textContent, event.target));
  }
  byId("large-compare").addEventListener("click", () => {
    const clip = largeClip;
    largeWindow.close();
    mark(clip);
  });
}
