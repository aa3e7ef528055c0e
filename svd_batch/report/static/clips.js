// A clip as an element: a placeholder with its poster that becomes a video near the screen and is unloaded far from it.

const MARGIN_PX = 160;
const LOAD_AFTER_MS = 90;
const observers = new Map(); // scrolling box -> its observer
const loaded = new Map(); // element -> member of the clock

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
  if (poster) element.append(make("img", { class: "poster", src: poster, alt: "", loading: "lazy", decoding: "async" }));
  if (reason) element.append(make("span", { class: "why" }, reason));
  else observerOf(box).observe(element);
  return element;
}

// What only passes by while someone scrolls is not loaded.
function loadSoon(element) {
  clearTimeout(element.waiting);
  element.waiting = setTimeout(load, element.scope === "page" ? LOAD_AFTER_MS : 0, element);
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
  clearTimeout(element.waiting);
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
}

// Let go of every clip below an element that is about to leave the page.
function release(root) {
  for (const element of root.querySelectorAll(".clip")) {
    observerOf(element.box).unobserve(element);
    unload(element);
  }
}
