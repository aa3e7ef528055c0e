// A clip as an element: a placeholder with its poster that becomes a video near the screen and is unloaded far from it.

const MARGIN_PX = 160;
const LOAD_AFTER_MS = 90;
const LOADS_A_FRAME = 3;
const FAST_PX_MS = 1;
const SLOW_MS = 60;
const CALM_AFTER_MS = 140;
const observers = new Map(); // scrolling box -> its observer
const loaded = new Map(); // element -> member of the clock
const waiting = new Set(); // elements near the screen that are yet to be loaded
let loadTimer = 0;
let calmTimer = 0;

function observerOf(box) {
  if (!observers.has(box)) {
    const seen = entries => entries.forEach(entry => (entry.isIntersecting ? loadSoon : unload)(entry.target));
    observers.set(box, new IntersectionObserver(seen, { root: box, rootMargin: `${MARGIN_PX}px` }));
  }
  return observers.get(box);
}

function why(clip) {
  if (isMissing.has(clip)) return "file missing";
  return suffixOf[clip] === "mkv" ? "lossless file: no browser plays it" : null;
}

// Return an element that shows a clip; `box` is what scrolls it, null for the window; `scope` as in clock.js.
function clipElement(clip, box, scope = "page") {
  const reason = why(clip);
  const element = make("div", { class: reason ? "clip none" : "clip" });
  element.clip = clip;
  element.scope = scope;
  element.box = box;
  const poster = posterOf(clip);
  if (poster) element.append(make("img", { class: "poster", src: poster, alt: "", loading: "lazy", decoding: "async", onerror: event => event.target.remove() }));
  if (reason) element.append(make("span", { class: "why" }, reason));
  else observerOf(box).observe(element);
  return element;
}

// What only passes by while someone scrolls is not loaded, and what is there comes a few a frame.
function loadSoon(element) {
  if (element.scope !== "page") return load(element);
  waiting.add(element);
  loadTimer ||= setTimeout(loadSome, LOAD_AFTER_MS);
}

function loadSome() {
  loadTimer = 0;
  if (clock.held) return; // calm() goes on with it
  for (const element of [...waiting].slice(0, LOADS_A_FRAME)) {
    waiting.delete(element);
    load(element);
  }
  if (waiting.size) loadTimer = setTimeout(requestAnimationFrame, 0, loadSome);
}

// Return what listens to a scrolling thing: while it goes fast, or the machine can't keep up, nothing is loaded and
// nothing plays.
function scrollWatch(topOf) {
  let [before, at] = [topOf(), performance.now()];
  return () => {
    const [top, now] = [topOf(), performance.now()];
    if (Math.abs(top - before) > FAST_PX_MS * (now - at) || (clock.playing && clock.gap > SLOW_MS)) hold();
    [before, at] = [top, now];
    clearTimeout(calmTimer);
    calmTimer = setTimeout(calm, CALM_AFTER_MS);
    return top;
  };
}

function calm() {
  letGo();
  if (waiting.size) loadTimer ||= setTimeout(loadSome, 0);
}

function load(element) {
  if (loaded.has(element) || !element.isConnected) return;
  const { clip } = element;
  if (["gif", "webp"].includes(suffixOf[clip])) {
    loaded.set(element, null);
    element.prepend(make("img", { src: fileOf(clip), alt: "", onerror: () => broken(element) }));
    return;
  }
  const video = make("video", { muted: true, playsinline: true, preload: "auto", tabindex: "-1", "aria-hidden": "true" });
  video.muted = true;
  video.disableRemotePlayback = true;
  video.addEventListener("error", () => broken(element));
  video.addEventListener("loadeddata", () => element.classList.add("ready"), { once: true });
  const member = { video, clip, scope: element.scope };
  loaded.set(element, member);
  video.src = fileOf(clip);
  element.prepend(video);
  join(member);
}

function unload(element) {
  waiting.delete(element);
  if (!loaded.has(element)) return;
  const member = loaded.get(element);
  loaded.delete(element);
  element.classList.remove("ready");
  if (member) {
    leave(member);
    member.video.removeAttribute("src");
    member.video.load(); // lets go of its buffers
    member.video.remove();
  } else {
    element.querySelector("img:not(.poster)")?.remove();
  }
}

function broken(element) {
  if (!loaded.has(element)) return; // unloading empties the source, which is no error
  unload(element);
  observerOf(element.box).unobserve(element);
  element.classList.add("none");
  element.append(make("span", { class: "why" }, "can't be played"));
  isDamaged.add(element.clip);
  tellLacking();
}

// Say in the page's head how many of the clips that were loaded so far can't be played; missing ones it counts already.
function tellLacking() {
  byId("lacking").hidden = false;
  byId("unplayable").textContent = `${isDamaged.size === 1 ? "1 clip" : `${isDamaged.size.toLocaleString("en")} clips`} can't be played.`;
  byId("show-lacking").textContent = `Show ${isMissing.size + isDamaged.size === 1 ? "it" : "them"}`;
}

function wireLacking() {
  byId("show-lacking").addEventListener("click", event => { // the address is the state's
    event.preventDefault();
    change({ pick: "lacking", layout: "clips" }, "filter");
    byId("clips").scrollIntoView({ behavior: "smooth" });
  });
}

// Let go of every clip below an element that is about to leave the page.
function release(root) {
  for (const element of root.querySelectorAll(".clip")) {
    observerOf(element.box).unobserve(element);
    unload(element);
  }
}
