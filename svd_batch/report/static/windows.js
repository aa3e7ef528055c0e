// Windows over the page (the large clip, two clips compared, the keys), and the small card beside the pointer.

const card = byId("card");

function openWindow(dialog, scope) {
  if (!dialog.open) dialog.showModal();
  setScope(scope);
}

function wireWindows() {
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("close", () => {
      release(dialog);
      dialog.querySelectorAll(".stage").forEach(stage => stage.replaceChildren());
      setScope(document.querySelector("dialog[open]")?.dataset.scope ?? "page");
      if (selected !== null) elementOf(selected)?.focus({ preventScroll: true });
    });
    dialog.addEventListener("click", event => {
      if (event.target === dialog) dialog.close(); // its backdrop
    });
    dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  }
}

// Give a stage the shape of a clip, so that nothing but the clip is in its box.
function setShape(stage, clip) {
  stage.style.setProperty("--aspect", columnOf("width")[clip] / columnOf("height")[clip]);
}

function rows(pairsOfText) {
  return pairsOfText.map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value)));
}

const measuredRows = clip => measures.map(m => [m.title, withUnit(columnOf(m.name)[clip], m)]);

// --- the card ------------------------------------------------------------------------------------------------------------

function showCard(cell) {
  const { clip } = cell;
  const metrics = measures.filter(m => columnOf(m.name)[clip] !== null).map(m => [m.title, withUnit(columnOf(m.name)[clip], m)]);
  card.replaceChildren(make("b", {}, pictureName(clip)), make("table", {},
    make("tbody", {}, ...rows(axes.map((axis, i) => [axis.label, axis.texts[placeOf[i][clip]]])), ...rows([["seed", textOf("seed", clip)]])),
    make("tbody", {}, ...rows(metrics.slice(0, 14)))));
  card.hidden = false;
  const at = cell.getBoundingClientRect();
  const left = at.right + 8 + card.offsetWidth < innerWidth ? at.right + 8 : Math.max(8, at.left - 8 - card.offsetWidth);
  card.style.left = `${left}px`;
  card.style.top = `${Math.max(8, Math.min(at.top, innerHeight - card.offsetHeight - 8))}px`;
}

const hideCard = () => { if (!card.hidden) card.hidden = true; };

function wireCard() {
  if (!window.matchMedia("(hover: hover)").matches) return;
  let waiting = 0;
  document.addEventListener("pointerover", event => {
    clearTimeout(waiting);
    const cell = event.target.closest?.(".cell, .tile");
    if (cell?.clip === undefined) return hideCard();
    waiting = setTimeout(() => cell.isConnected && showCard(cell), card.hidden ? 450 : 60);
  });
  document.addEventListener("scroll", hideCard, true);
  document.addEventListener("pointerdown", hideCard);
}

// --- copying ---------------------------------------------------------------------------------------------------------------

async function copy(text, button) {
  const label = button.textContent;
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea", { class: "offscreen" });
    area.value = text;
    (button.closest("dialog") ?? document.body).append(area);
    area.select();
    done = document.execCommand("copy"); // the way of pages that browsers don't trust with a clipboard
    area.remove();
  }
  button.textContent = done ? "Copied" : "Not copied";
  setTimeout(() => { button.textContent = label; }, 1200);
}
