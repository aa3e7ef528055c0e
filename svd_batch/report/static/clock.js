// One clock for all clips on the screen. Its position is a share of the clip, from 0 to 1: clips of other lengths and
// speeds reach their ends together. Videos play by themselves, which is cheap, and are corrected when they drift.

const clock = { position: 0, playing: false, speed: 1, scope: "page", last: 0, held: false, gap: 0 };
const members = new Set(); // videos that are near the screen: {video, clip, scope}
const CORRECT_MS = 80;

const isActive = member => member.scope === clock.scope;
const frameAt = (position, frames) => Math.min(Math.floor(position * frames + 1e-6), frames - 1);

function join(member) {
  members.add(member);
  const { video } = member;
  video.addEventListener("loadeddata", () => align(member), { once: true });
  video.addEventListener("seeked", () => {
    if (member.wanted !== undefined && Math.abs(member.wanted - video.currentTime) > 1e-3) seek(member, member.wanted);
  });
  if (video.readyState >= 2) align(member);
}

function leave(member) {
  members.delete(member);
  member.video.pause();
}

function timeOf(member) {
  const { video, clip } = member;
  if (clock.playing) return clock.position * video.duration;
  const frames = framesOf[clip] || 1; // the middle of the frame, which no rounding mistakes for its neighbour
  return (frameAt(clock.position, frames) + 0.5) / frames * video.duration;
}

function seek(member, seconds) {
  member.wanted = seconds;
  if (!member.video.seeking) member.video.currentTime = seconds;
}

function start(member) {
  member.wanted = undefined;
  member.video.play().catch(() => {}); // an unloaded one says no, and that is fine
}

// Bring one video to where the clock is.
function align(member) {
  const { video } = member;
  if (!(video.duration > 0)) return;
  if (!isActive(member)) return video.pause();
  if (clock.held && member.scope === "page") return video.pause();
  if (!clock.playing) {
    video.pause();
    return seek(member, timeOf(member));
  }
  video.currentTime = timeOf(member);
  start(member);
}

const alignAll = () => members.forEach(align);

// Everything on the page stands still, the clock too, until letGo().
function hold() {
  if (clock.held || clock.scope !== "page") return;
  clock.held = true;
  members.forEach(({ video }) => video.pause());
}

function letGo() {
  if (!clock.held) return;
  clock.held = false;
  if (!clock.playing) return alignAll();
  members.forEach(member => isActive(member) && member.video.readyState >= 2 && start(member)); // where they stood
}

function correct(member) {
  const { video, clip } = member;
  if (!isActive(member) || video.readyState < 2 || video.seeking || !(video.duration > 0)) return;
  const rate = video.duration / loopS * clock.speed;
  const drift = (video.currentTime - clock.position * video.duration) / (video.duration / (framesOf[clip] || 1)); // in frames
  if (Math.abs(drift) > 0.9) {
    video.currentTime = Math.min(clock.position * video.duration + 0.02, video.duration - 1e-3);
    video.playbackRate = bounded(rate);
  } else {
    const wanted = bounded(Math.abs(drift) > 0.15 ? rate * (1 - 0.4 * drift) : rate);
    if (Math.abs(video.playbackRate - wanted) > 1e-3) video.playbackRate = wanted;
  }
  if (video.paused && !video.ended) start(member);
}

const bounded = rate => Math.min(Math.max(rate, 0.0625), 16);

function tick(now) {
  const passed = Math.min((now - clock.last) / 1000, 0.25);
  clock.gap += 0.3 * (now - clock.last - clock.gap); // about what a picture of the screen takes, in ms
  clock.last = now;
  if (clock.playing && clock.held && clock.scope === "page") {
    requestAnimationFrame(tick);
  } else if (clock.playing) {
    clock.position += passed * clock.speed / loopS;
    if (clock.position >= 1) {
      clock.position %= 1;
      alignAll();
    } else if (now - clock.corrected > CORRECT_MS) {
      clock.corrected = now;
      members.forEach(correct);
    }
    showPosition();
    requestAnimationFrame(tick);
  }
}

function play() {
  if (clock.playing) return;
  clock.playing = true;
  clock.last = clock.corrected = performance.now();
  alignAll();
  requestAnimationFrame(tick);
}

function pause() {
  clock.playing = false;
  members.forEach(({ video }) => video.pause());
  clock.position = (frameAt(clock.position, mostFrames) + 0.5) / mostFrames;
  alignAll();
  showPosition();
}

const setPlaying = playing => change({ play: playing ? "1" : "0" }, "clock");

function goTo(frame) {
  clock.position = (((frame % mostFrames) + mostFrames) % mostFrames + 0.5) / mostFrames;
  if (clock.playing) setPlaying(false);
  alignAll();
  showPosition();
}

const step = by => goTo(frameAt(clock.position, mostFrames) + by);

// Only the clips of one scope run: those of the page, or those of the window that is open over it.
function setScope(scope) {
  clock.scope = scope;
  members.forEach(align);
}

const scrubs = document.querySelectorAll("input.scrub");
const frameNumbers = document.querySelectorAll(".frame-number");

function showPosition() {
  const frame = frameAt(clock.position, mostFrames);
  for (const slider of scrubs) {
    if (slider.value !== String(frame)) {
      slider.value = frame;
      slider.setAttribute("aria-valuetext", `frame ${frame + 1} of ${mostFrames}`);
    }
  }
  for (const text of frameNumbers) {
    const shown = `${frame + 1} / ${mostFrames}`;
    if (text.textContent !== shown) text.textContent = shown;
  }
}
