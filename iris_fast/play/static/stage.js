// The frames: one canvas for each, pixels scaled by a whole number, and the square of tokens over the dream's frame, or
// over the first one where there is no dream.

const TITLES = { observation: "real, 64×64", screen: "the emulator's screen", reconstruction: "what the agent sees",
  dream: "dream", left: "episode A", right: "episode B" };
const TALLEST = 420; // pixels
const NARROWEST = 250; // pixels of a figure in a row of more than two

const fixed = (value, digits) => (typeof value === "number" ? value.toFixed(digits) : "–");

export class Stage {
  constructor(place, onToken) {
    Object.assign(this, { place, onToken, figures: new Map(), thoughts: null, hovered: -1, count: 0 });
  }

  async draw(images, thoughts) {
    const pictures = await Promise.all(images.map(({ file }) => createImageBitmap(file)));
    this.thoughts = thoughts;
    const names = images.map(({ name }) => name);
    this.keepOnly(names);
    const gridded = names.includes("dream") ? "dream" : names[0];
    names.forEach((name, index) => this.paint(this.canvas(name), pictures[index], names.length, name === gridded));
    this.order(names);
    this.count += 1;
    this.place.dataset.frames = this.count;
  }

  keepOnly(names) {
    for (const [name, figure] of this.figures) {
      if (!names.includes(name)) { figure.remove(); this.figures.delete(name); }
    }
  }

  order(names) { // as the server lists them, whichever was there first
    if ([...this.figures.keys()].join() === names.join()) return;
    this.figures = new Map(names.map((name) => [name, this.figures.get(name)]));
    this.place.append(...this.figures.values());
  }

  canvas(name) {
    let figure = this.figures.get(name);
    if (!figure) {
      figure = document.createElement("figure");
      const canvas = document.createElement("canvas");
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", TITLES[name] ?? name);
      const title = document.createElement("figcaption");
      title.textContent = TITLES[name] ?? name;
      figure.append(title, canvas);
      this.watch(canvas);
      this.figures.set(name, figure);
      this.place.append(figure);
    }
    return figure.querySelector("canvas");
  }

  side() { return Math.round(Math.sqrt(this.thoughts?.tokens?.length ?? 1)); } // of the square of tokens

  watch(canvas) {
    const token = (event) => {
      const box = canvas.getBoundingClientRect();
      const side = this.side();
      const column = Math.floor(((event.clientX - box.left) / box.width) * side);
      const row = Math.floor(((event.clientY - box.top) / box.height) * side);
      return Math.max(0, Math.min(side - 1, row)) * side + Math.max(0, Math.min(side - 1, column));
    };
    canvas.addEventListener("pointermove", (event) => { this.hovered = token(event); });
    canvas.addEventListener("pointerleave", () => { this.hovered = -1; });
    canvas.addEventListener("click", (event) => {
      if (canvas.classList.contains("grid")) this.onToken(token(event), this.thoughts.tokens[token(event)]);
    });
  }

  paint(canvas, picture, count, gridded) {
    const columns = this.place.clientWidth / count < NARROWEST ? Math.min(count, 2) : count;
    const room = this.place.clientWidth / columns - (columns > 1 ? 46 : 32);
    const scale = Math.max(1, Math.min(Math.floor(room / picture.width), Math.floor(TALLEST / picture.height)));
    const [width, height] = [picture.width * scale, picture.height * scale];
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = false;
    pen.drawImage(picture, 0, 0, width, height);
    picture.close();
    const grid = gridded && Boolean(this.thoughts?.tokens);
    canvas.classList.toggle("grid", grid);
    if (grid) this.paintTokens(pen, width, height);
  }

  paintTokens(pen, width, height) {
    const { tokens, token_probabilities: chances, token_entropies: entropies } = this.thoughts;
    const side = this.side();
    const [w, h] = [width / side, height / side];
    pen.font = "11px ui-monospace, monospace";
    tokens.forEach((code, index) => {
      const [x, y] = [(index % side) * w, Math.floor(index / side) * h];
      pen.strokeStyle = index === this.hovered ? "#fbbf24" : "rgb(148 160 189 / 45%)";
      pen.strokeRect(x + 0.5, y + 0.5, w - 1, h - 1);
      const lines = [String(code)];
      if (index === this.hovered && chances) lines.push(`p ${fixed(chances[index], 2)}`, `H ${fixed(entropies[index], 2)}`);
      pen.fillStyle = "rgb(11 16 32 / 70%)";
      pen.fillRect(x + 2, y + 2, Math.max(...lines.map((line) => pen.measureText(line).width)) + 6, lines.length * 13 + 3);
      pen.fillStyle = "#e6ebf7";
      lines.forEach((line, row) => pen.fillText(line, x + 5, y + 13 + row * 13));
    });
  }
}
