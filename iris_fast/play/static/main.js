// The page with a server: what buttons send, and where answers go.

import { Connection } from "./connection.js";
import { Controls, listKeys } from "./controls.js";
import { Stage } from "./stage.js";
import { View } from "./view.js";

const get = (id) => document.getElementById(id);
const view = new View();
let state = { actions: [] };
let lost = false;
let before = {}; // the settings of a session that was lost
const SETTINGS = ["mode", "controls", "paused", "fps", "temperature", "seed", "panels", "thoughts"];
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
    await stage.draw(images, info.thoughts ?? null);
    view.frame(info, state.actions);
  },
  onMessage: (message) => MESSAGES[message.type]?.(message),
  onStatus: (open) => {
    if (!open) {
      before = lost ? before : settings(state);
      get("keep").close(); // who asked is gone
      view.notice(`No connection to the server: trying again. Is it running? ${HINT}`);
    } else if (lost) {
      view.notice("");
      set(before); // a new connection has a new session
    }
    lost = !open;
  },
});
const settings = (all) => Object.fromEntries(SETTINGS.filter((name) => name in all).map((name) => [name, all[name]]));
const send = (type, fields) => connection.send(type, fields);
const set = (fields) => send("set", fields);
const controls = new Controls({ onAction: (action) => send("action", { action }) });

const MESSAGES = {
  state: (message) => {
    const browse = message.mode === "episodes" && state.mode !== "episodes";
    state = { ...state, ...message };
    controls.setActions(state.actions, get("pad"));
    view.state(state);
    if (browse) send("list");
  },
  episodes: ({ episodes }) => view.episodes(episodes, (side, id) => send("open", { side, id })),
  recorded: ({ files }) => view.recorded(files),
  asked: ({ steps, return: total }) => {
    get("keep-text").textContent = steps === undefined ? "" : `${steps} steps, return ${total}`;
    get("keep").showModal();
  },
  error: ({ message }) => {
    view.notice(message);
    clearTimeout(quiet);
    quiet = setTimeout(() => { if (!lost) view.notice(""); }, 6000);
  },
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
  "keep-yes": () => { send("keep", { keep: true }); get("keep").close(); },
  "keep-no": () => { send("keep", { keep: false }); get("keep").close(); },
};
for (const [id, click] of Object.entries(CLICKS)) get(id).addEventListener("click", click);
for (const button of document.querySelectorAll("[data-mode]")) {
  button.addEventListener("click", () => set({ mode: button.dataset.mode }));
}
get("keep").addEventListener("cancel", (event) => event.preventDefault()); // it needs an answer
get("fps").addEventListener("input", ({ target }) => set({ fps: Number(target.value) }));
get("temperature").addEventListener("change", ({ target }) => set({ temperature: Number(target.value) }));
get("seed").addEventListener("change", ({ target }) => set({ seed: Math.trunc(Number(target.value)) }));
get("scrub").addEventListener("input", ({ target }) => { set({ paused: true }); send("seek", { index: Number(target.value) }); });
get("token-form").addEventListener("submit", ({ submitter }) => {
  if (submitter?.value !== "replace") return;
  send("token", { index: Number(get("token-index").textContent), code: Number(get("token-code").value) });
});
