// The page with a server: what buttons send, and where answers go.

import { Connection } from "./connection.js";
import { Controls, listKeys } from "./controls.js";
import { Stage } from "./stage.js";
import { View } from "./view.js";

const get = (id) => document.getElementById(id);
const view = new View();
let state = { actions: [] };
let waiting = true; // until there is a session
let failure = ""; // why there was none
let before = null; // the settings of a session that was lost
const SETTINGS = ["mode", "controls", "paused", "fps", "temperature", "seed", "panels", "thoughts", "save"];
const HINT = new URL(location.href).hostname.match(/^(localhost|127\.|\[::1\])/) ? "" :
  "A server that started again has a new token: open the address that it printed.";
let quiet = 0; // the timer that takes an error away

const stage = new Stage(get("stage"), (index, code) => {
  get("token-index").textContent = index;
  get("token-code").value = code;
  get("token").showModal();
});
const connection = new Connection({
  onFrame: async ({ info, images }) => {
    if (info.mode !== state.mode) return; // it was under way when the mode changed
    await stage.draw(images, info.thoughts ?? null, titles());
    view.frame(info, state.actions);
  },
  onMessage: (message) => MESSAGES[message.type]?.(message),
  onStatus: (open) => {
    if (open) {
      failure = "";
      view.notice("Starting the game…");
      return;
    }
    if (!waiting) before = settings(state);
    wait(true);
    get("keep").hidden = true; // who asked is gone
    view.notice(failure ? `${failure} Trying again.` :
      `No connection to the server: trying again. Is it running? ${HINT}`);
  },
});
function wait(on) {
  waiting = on;
  document.body.classList.toggle("waiting", on);
  for (const part of document.querySelectorAll("nav, main")) part.inert = on;
}
function complain(text) {
  if (waiting) failure = text;
  view.notice(text);
  clearTimeout(quiet);
  quiet = setTimeout(() => { if (!waiting) view.notice(""); }, 6000);
}
const titles = () => Object.fromEntries(Object.entries(state.films ?? {}).map(([side, { name }]) =>
  [["left", "right"][side], `${"AB"[side]} · ${name}`]));
const settings = (all) => Object.fromEntries(SETTINGS.filter((name) => name in all).map((name) => [name, all[name]]));
const send = (type, fields) => connection.send(type, fields);
const set = (fields) => send("set", fields);
const controls = new Controls({ onAction: (action) => send("action", { action }), onRefused: complain });

const MESSAGES = {
  state: (message) => {
    if (waiting) {
      wait(false);
      view.notice("");
      if (before) set(before); // a new connection has a new session
      before = null;
    }
    const browse = message.mode === "episodes" && state.mode !== "episodes";
    state = { ...state, ...message };
    controls.playing = state.mode !== "episodes";
    controls.setActions(state.actions, get("pad"));
    view.state(state);
    if (browse) send("list");
    if (state.mode === "episodes" && state.films && !Object.keys(state.films).length) {
      stage.clear("There is no film yet. Training makes some, and so does Record in another mode.");
    }
  },
  episodes: ({ episodes }) => view.episodes(episodes, (side, id) => send("open", { side, id })),
  recorded: ({ files }) => view.recorded(files),
  asked: ({ steps, return: total }) => {
    get("keep-text").textContent = steps === undefined ? "" : `${steps} steps, return ${total}`;
    get("keep").hidden = false;
  },
  error: ({ message }) => complain(message),
};

const CLICKS = {
  handover: () => send("handover"),
  pause: () => set({ paused: !state.paused }),
  single: () => { set({ paused: true }); send("step"); },
  reset: () => send("reset"),
  fork: () => send("fork"),
  record: () => send("record"),
  panels: () => set({ panels: !state.panels }),
  think: () => set({ thoughts: !state.thoughts }),
  "help-button": () => { listKeys(get("keys")); get("help").showModal(); },
  "keep-yes": () => send("keep", { keep: true }),
  "keep-no": () => send("keep", { keep: false }),
  "keep-all": () => set({ save: "all" }),
  "keep-none": () => set({ save: "off" }),
};
for (const [id, click] of Object.entries(CLICKS)) get(id).addEventListener("click", click);
for (const button of document.querySelectorAll("[data-mode]")) {
  button.addEventListener("click", () => set({ mode: button.dataset.mode }));
}
get("fps").addEventListener("input", ({ target }) => set({ fps: Number(target.value) }));
get("save").addEventListener("change", ({ target }) => { set({ save: target.value }); target.blur(); });
for (const box of [get("temperature"), get("seed")]) {
  box.addEventListener("change", () => entered(box));
  box.addEventListener("keydown", ({ key }) => {
    if (key === "Escape") box.value = state[box.id];
    if (key === "Escape" || key === "Enter") box.blur(); // the keys are the game's again
  });
}
function entered(box) { // a number within its bounds, or the one of before again
  const { id, min, max } = box;
  const [value, whole] = [box.value === "" ? NaN : Number(box.value), box.step === "1"];
  if (value >= Number(min) && value <= Number(max) && (!whole || Number.isInteger(value))) {
    set({ [id]: value });
    return;
  }
  box.value = state[id];
  complain(`${id[0].toUpperCase()}${id.slice(1)} goes from ${min} to ${max}${whole ? ", in whole numbers" : ""}.`);
}
get("scrub").addEventListener("input", ({ target }) => { set({ paused: true }); send("seek", { index: Number(target.value) }); });
get("token-form").addEventListener("submit", ({ submitter }) => {
  if (submitter?.value !== "replace") return;
  send("token", { index: Number(get("token-index").textContent), code: Number(get("token-code").value) });
});
