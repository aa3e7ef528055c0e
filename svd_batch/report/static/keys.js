// The keyboard. Fields keep their own keys; Esc closes what is open.

const isField = element => element.matches?.("input:not([type=checkbox]):not([type=radio]), select, textarea");

function currentClip() {
  if (largeWindow.open) return largeClip;
  return document.activeElement?.closest?.(".cell, .tile")?.clip ?? selected;
}

const KEYS = {
  " ": () => setPlaying(!clock.playing),
  ",": () => step(-1),
  ".": () => step(1),
  ArrowLeft: () => arrow(0, -1),
  ArrowRight: () => arrow(0, 1),
  ArrowUp: () => arrow(-1, 0),
  ArrowDown: () => arrow(1, 0),
  j: () => noWindow(() => movePicture(1)),
  k: () => noWindow(() => movePicture(-1)),
  Enter: () => currentClip() !== null && noWindow(() => openLarge(currentClip())),
  c: () => {
    const clip = currentClip();
    if (clip === null || compareWindow.open) return;
    if (largeWindow.open) largeWindow.close();
    mark(clip);
  },
  "/": () => noWindow(() => byId("query").focus()),
  t: toggleTheme,
  "?": () => openHelp(),
};

function noWindow(action) {
  if (!document.querySelector("dialog[open]")) action();
}

function arrow(down, right) {
  if (largeWindow.open) return stepLarge(down, right);
  noWindow(() => moveSelection(down, right));
}

function openHelp() {
  const help = byId("help");
  if (help.open) help.close();
  else if (!document.querySelector("dialog[open]")) openWindow(help, "page");
}

function wireKeys() {
  document.addEventListener("keydown", event => {
    const element = event.target;
    if (event.key === "Escape" && isField(element) && !element.closest("dialog")) return element.blur();
    if (event.ctrlKey || event.metaKey || event.altKey || isField(element) || figureKey(event)) return;
    const onButton = element.matches?.("button:not(.tile), a, summary, input");
    if (onButton && (event.key === "Enter" || event.key === " ")) return;
    if (element.matches?.(".tile") && event.key === "Enter") return; // a button already
    const isArrow = event.key.startsWith("Arrow");
    if (isArrow && !largeWindow.open && !box.contains(element)) return; // the page scrolls
    const action = KEYS[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}
