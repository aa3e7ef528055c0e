// Putting it all together: read the address, wire everything, draw, and keep drawing what changes.

function drawAll() {
  applyPick();
  refilter();
  fillControls();
  arrange();
}

function follow(what) {
  if (what === "clock") {
    clock.speed = Number(state.speed);
    if (state.play === "1") play();
    else pause();
    showPlaying();
  } else if (what === "lookup") {
    drawLookup();
    if (state.pick) drawAll();
  } else if (what === "slider") {
    arrange();
  } else if (what === "view" || what === "filter") {
    drawAll();
  }
}

function wirePage() {
  const [boxScrolled, pageScrolled] = [scrollWatch(() => box.scrollTop), scrollWatch(() => scrollY)];
  box.addEventListener("scroll", () => { // the browser tells it once a frame
    const top = boxScrolled();
    drawAt(top);
    state.top = String(Math.round(top));
    writeState();
  }, { passive: true });
  addEventListener("scroll", () => {
    state.page = String(Math.round(pageScrolled()));
    writeState();
  }, { passive: true });
  let wide = box.clientWidth;
  new ResizeObserver(() => {
    if (box.clientWidth !== wide) arrange();
    else draw();
    wide = box.clientWidth;
  }).observe(box);
  canvas.addEventListener("click", event => {
    const cell = event.target.closest(".cell");
    if (cell?.clip === undefined) return;
    select(cell.clip);
    openLarge(cell.clip);
  });
  canvas.addEventListener("focusin", event => {
    const cell = event.target.closest(".cell");
    if (cell?.clip !== undefined && cell.clip !== selected) select(cell.clip, false);
  });
  for (const link of document.querySelectorAll("nav a")) {
    link.addEventListener("click", event => { // the address is the state's
      event.preventDefault();
      document.querySelector(link.getAttribute("href")).scrollIntoView({ behavior: "smooth" });
    });
  }
  byId("theme").addEventListener("click", toggleTheme);
  byId("keys").addEventListener("click", openHelp);
  byId("outlier")?.addEventListener("change", event => {
    change({ outlier: event.target.value }, "scroll");
    drawExtremes();
  });
}

// While a run goes on the page loads itself anew, but never under someone's hands.
function refresh() {
  if (!data.refreshS) return;
  let ready = Date.now() + data.refreshS * 1000;
  const touched = () => { ready = Math.max(ready, Date.now() + 4000); };
  for (const kind of ["pointerdown", "keydown", "wheel", "input"]) addEventListener(kind, touched, { passive: true });
  setInterval(() => {
    const isBusy = document.hidden || document.querySelector("dialog[open]") || byId("live-hold").checked;
    if (isBusy || Date.now() < ready) return;
    writeStateNow();
    location.reload();
  }, 500);
}

function begin() {
  readState();
  applyTheme(storedTheme());
  if (innerWidth < 700) byId("settings").open = false;
  document.documentElement.style.setProperty("--widest", widest);
  byId("sync-note").hidden = !clipsDiffer;
  wireControls();
  wireWindows();
  wireCard();
  wireLarge();
  wireCompare();
  wireLookup();
  wireFigures();
  wireLacking();
  wireKeys();
  wirePage();
  onChange(follow);
  drawAll();
  drawLookup();
  drawExtremes();
  drawFlags();
  follow("clock");
  scrollTo(0, Number(state.page));
  box.scrollTop = Number(state.top);
  draw();
  refresh();
}

begin();
