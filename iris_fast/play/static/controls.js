// Keys, buttons, gamepads and touch, made one held action: its number in the game's list of names.

const MOVES = { ArrowUp: "UP", ArrowDown: "DOWN", ArrowLeft: "LEFT", ArrowRight: "RIGHT", w: "UP", s: "DOWN", a: "LEFT",
  d: "RIGHT", Enter: "FIRE", x: "FIRE" };
const ORDER = ["UP", "DOWN", "RIGHT", "LEFT", "FIRE"]; // as names of Atari actions are written: UPRIGHTFIRE
const TYPED = "input:not([type=range]), select, textarea"; // they get the keys that are pressed on them
const SLIDES = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "Home", "End", "PageUp", "PageDown"]; // and a slider these
const SHOWN = { " ": "space", Backspace: "⌫", Tab: "tab" };

export class Controls {
  constructor({ onAction, onRefused }) {
    Object.assign(this, { onAction, onRefused, actions: [], keys: new Set(), pad: new Set(), touched: null, last: 0 });
    this.playing = true; // films take no actions
    for (const kind of ["pointerup", "click"]) document.addEventListener(kind, (event) => this.letGo(event));
    document.addEventListener("keydown", (event) => this.key(event, true));
    document.addEventListener("keyup", (event) => this.key(event, false));
    window.addEventListener("blur", () => { this.keys.clear(); this.touched = null; this.tell(); });
    for (const button of document.querySelectorAll("[data-key]")) {
      button.dataset.shown = SHOWN[button.dataset.key] ?? button.dataset.key;
    }
    window.addEventListener("gamepadconnected", () => this.poll());
  }

  letGo({ type, detail }) { // what was used with a pointer gives the keys back; whoever moves the focus by keys keeps it
    const used = document.activeElement;
    if (type === "click" && !detail) return;
    if (used?.matches("button, a, input[type=range]") && !used.closest("dialog")) used.blur();
  }

  key(event, down) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const open = document.querySelector("dialog[open]");
    if (down && (open || event.target.matches(TYPED))) return;
    if (down && event.target.matches("input[type=range]") && SLIDES.includes(event.key)) return;
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const move = MOVES[name];
    if (move && this.playing && !(name === "Enter" && event.target.matches("button, a"))) {
      event.preventDefault();
      if (down) this.keys.add(name); else this.keys.delete(name);
      this.tell();
      return;
    }
    const button = down && !event.shiftKey | (name === "?") && document.querySelector(`[data-key="${CSS.escape(name)}"]`);
    if (!button || button.closest("[hidden], [inert]")) return; // Shift+Tab still moves the focus
    event.preventDefault();
    if (button.disabled) this.onRefused(button.title);
    else if (!event.repeat || name === ".") button.click();
  }

  poll() { // the browser has no events for gamepads
    this.pad.clear();
    for (const pad of navigator.getGamepads()) {
      if (!pad) continue;
      const pressed = (index) => pad.buttons[index]?.pressed;
      if (pad.axes[1] < -0.5 || pressed(12)) this.pad.add("UP");
      if (pad.axes[1] > 0.5 || pressed(13)) this.pad.add("DOWN");
      if (pad.axes[0] < -0.5 || pressed(14)) this.pad.add("LEFT");
      if (pad.axes[0] > 0.5 || pressed(15)) this.pad.add("RIGHT");
      if (pressed(0)) this.pad.add("FIRE");
    }
    this.tell();
    if (navigator.getGamepads().some(Boolean)) requestAnimationFrame(() => this.poll());
  }

  held() {
    if (this.touched !== null) return this.touched;
    const moves = new Set([...this.pad, ...[...this.keys].map((key) => MOVES[key])]);
    for (let parts = ORDER.filter((move) => moves.has(move)); parts.length; parts = parts.slice(0, -1)) {
      const index = this.actions.indexOf(parts.join(""));
      if (index >= 0) return index;
    }
    return Math.max(0, this.actions.indexOf("NOOP"));
  }

  tell() {
    const action = this.held();
    if (action !== this.last) this.onAction((this.last = action));
  }

  setActions(names, pad) {
    if (names.join() === this.actions.join()) return;
    this.actions = names;
    pad.replaceChildren(...names.map((name, index) => {
      const button = document.createElement("button");
      button.textContent = name.toLowerCase();
      const hold = (down) => { this.touched = down ? index : null; button.classList.toggle("held", down); this.tell(); };
      button.addEventListener("pointerdown", () => hold(true));
      for (const end of ["pointerup", "pointerleave", "pointercancel"]) button.addEventListener(end, () => hold(false));
      return button;
    }));
  }
}

export function listKeys(place) {
  const rows = [...document.querySelectorAll("[data-key]")].map((button) =>
    [button.dataset.shown, button.dataset.help ?? button.getAttribute("aria-label") ?? button.textContent]);
  rows.push(["← ↑ → ↓", "Move (also w a s d)"], ["enter", "Fire (also x)"],
    ["shift tab", "Move to the buttons and boxes, without a pointer"]);
  place.replaceChildren(...rows.flatMap(([key, text]) => {
    const [term, meaning] = [document.createElement("dt"), document.createElement("dd")];
    const shown = document.createElement("kbd");
    shown.textContent = key;
    term.append(shown);
    meaning.textContent = text;
    return [term, meaning];
  }));
}
