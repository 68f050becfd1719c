// The page's text and panels, drawn from what the server said.

import { drawBars, drawCurve } from "./charts.js";

const get = (id) => document.getElementById(id);
const CURVE = 200; // steps of the running curve
const number = (value, digits = 1) => (typeof value === "number" ? value.toFixed(digits) : "–");

const FILM = "A film plays as it is: go to another mode for this.";
const WITHOUT_EFFECT = { // in a mode, and why
  episodes: Object.fromEntries(
    ["handover", "fork", "record", "panels", "think", "temperature", "seed", "save"].map((id) => [id, FILM])),
  dream: {
    panels: "A dream has no other panels: the emulator's screen is in Real and Fork.",
    fork: "A fork starts at a frame of the game: go to Real.",
  },
};
const SECOND = 1000;
const LINKS = 8; // to recordings; older ones are in Episodes

function heading(text) {
  const [row, cell] = [document.createElement("tr"), document.createElement("th")];
  row.className = "group";
  Object.assign(cell, { textContent: text, colSpan: 5, scope: "rowgroup" });
  row.append(cell);
  return row;
}

function dated(seconds) { // as in 2026-12-01 07:05, where the reader is
  const date = new Date(1000 * seconds);
  const two = (value) => String(value).padStart(2, "0");
  return [[date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join("-"),
    [two(date.getHours()), two(date.getMinutes())].join(":")].join(" ");
}

function filmRow(episode, onOpen) {
  const row = document.createElement("tr");
  const date = episode.changed ? dated(episode.changed) : "–";
  for (const text of [episode.name, date, episode.steps ?? "–", number(episode.return)]) row.insertCell().textContent = text;
  const last = row.insertCell();
  ["A", "B"].forEach((letter, side) => {
    const button = document.createElement("button");
    button.textContent = letter;
    button.setAttribute("aria-label", `Show ${episode.name} as episode ${letter}`);
    Object.assign(button.dataset, { side, film: episode.id });
    button.addEventListener("click", () => onOpen(side, episode.id));
    last.append(button, " ");
  });
  return row;
}

export class View {
  constructor() { this.values = []; this.mode = null; this.rebuilt = 0; this.films = {}; }

  state(state) {
    get("game").textContent = state.game ?? "";
    for (const button of document.querySelectorAll("[data-mode]")) {
      button.setAttribute("aria-pressed", String(button.dataset.mode === state.mode));
    }
    const person = state.controls === "person";
    get("handover").textContent = person ? "you play" : "agent plays";
    get("handover").classList.toggle("person", person);
    get("pad").hidden = !person || state.mode === "episodes";
    get("pause").textContent = state.paused ? "Go on" : "Pause";
    get("reset").textContent = state.mode === "episodes" ? "To the start" : "Reset";
    get("record").textContent = state.recording ? "Stop recording" : "Record";
    get("recording").hidden = !state.recording;
    const unused = WITHOUT_EFFECT[state.mode] ?? {};
    for (const id of Object.keys(WITHOUT_EFFECT.episodes)) {
      get(id).disabled = id in unused;
      get(id).title = unused[id] ?? "";
    }
    get("panels").setAttribute("aria-pressed", String(state.panels && !unused.panels));
    get("think").setAttribute("aria-pressed", String(state.thoughts && !unused.think));
    if (!state.asking) get("keep").hidden = true;
    get("thoughts").hidden = !state.thoughts || state.mode === "episodes"; // films have none
    for (const part of [get("browser"), get("scrub").parentElement]) part.hidden = state.mode !== "episodes";
    this.films = state.films ?? {};
    this.pressed();
    get("token-code").max = (state.codes ?? 1) - 1;
    for (const name of ["fps", "temperature", "seed", "save"]) {
      if (document.activeElement !== get(name)) get(name).value = state[name];
    }
    get("fps-shown").value = state.fps;
    if (state.mode !== this.mode) {
      this.values = [];
      clearTimeout(this.rebuilt);
      this.rebuilt = 0;
    }
    this.mode = state.mode;
  }

  frame(info, actions) {
    get("step").textContent = info.step;
    get("action").textContent = (info.action_name ?? "–").toLowerCase();
    get("reward").textContent = number(info.reward);
    get("return").textContent = number(info.return);
    get("rate").textContent = Number(info.fps).toFixed(0);
    this.marks(info);
    if (document.activeElement !== get("scrub") && info.mode === "episodes") {
      get("scrub").max = info.length ?? Math.max(Number(get("scrub").max), info.step);
      get("scrub").value = info.step;
    }
    if (info.thoughts) this.thoughts(info.thoughts, info.action, actions);
  }

  marks(info) {
    this.last = info;
    const parts = [];
    if (info.fork) {
      for (const [name, text] of [["first_reward", "rewards"], ["first_end", "ends"], ["first_frame", "frames"]]) {
        const step = info.fork[name];
        parts.push(step === null ? `${text} agree` : `${text} part after ${step} ${step === 1 ? "step" : "steps"}`);
      }
      parts.push(`difference ${Number(info.fork.difference).toFixed(3)}`);
    }
    if (info.context) { // one frame is too short to be read
      clearTimeout(this.rebuilt);
      this.rebuilt = setTimeout(() => { this.rebuilt = 0; this.marks({ ...this.last, context: false }); }, SECOND);
    }
    if (this.rebuilt) parts.push("context rebuilt");
    if (info.end) parts.push("the episode ended");
    const text = parts.join(" · ");
    if (get("marks").textContent !== text) get("marks").textContent = text;
  }

  thoughts(thoughts, action, actions) {
    this.values = [...this.values, thoughts.value].slice(-CURVE);
    get("value").textContent = number(thoughts.value, 2);
    get("entropy").textContent = number(thoughts.entropy, 2);
    drawBars(get("bars"), actions.map((name) => name.toLowerCase()), thoughts.probabilities, action);
    drawCurve(get("curve"), this.values);
    drawBars(get("outcomes"), ["reward −1", "reward 0", "reward +1", "goes on", "ends"], [...thoughts.reward, ...thoughts.end]);
  }

  episodes(episodes, onOpen) {
    const recordings = episodes.filter(({ kind }) => kind === "recording");
    const others = episodes.filter(({ kind }) => kind !== "recording");
    const groups = [["Recordings", recordings], ["Films of the run", others]].filter(([, rows]) => rows.length);
    get("rows").replaceChildren(...groups.flatMap(([title, rows]) =>
      [heading(title), ...rows.map((episode) => filmRow(episode, onOpen))]));
    this.pressed();
  }

  pressed() { // the films that are shown
    for (const button of document.querySelectorAll("#rows button")) {
      button.setAttribute("aria-pressed", String(this.films[button.dataset.side]?.id === button.dataset.film));
    }
  }

  recorded(files) {
    for (const { name, url } of files) {
      const [item, link] = [document.createElement("li"), document.createElement("a")];
      Object.assign(link, { href: url, textContent: name, download: name });
      item.append(link);
      get("downloads").append(item);
    }
    while (get("downloads").children.length > LINKS) get("downloads").firstChild.remove();
  }

  notice(text) {
    get("notice").textContent = text;
    get("notice").hidden = !text;
  }
}
