// The frames: one canvas for each, all of one size, their pixels scaled by a whole number, and the square of tokens over
// the frame that the tokens give: the dream's, or else the reconstruction.

const TITLES = { observation: "real, 64×64", screen: "the emulator's screen", reconstruction: "what the agent sees",
  dream: "dream", left: "episode A", right: "episode B" };
const [SHORTEST, TALLEST] = [192, 420]; // pixels of a frame's height, beside what else the window shows
const CAPTION = 70; // pixels above and below a frame, to the end of its figure and of the window
const NARROW = 640; // pixels of a telephone: two frames in a row, and the rest of the page below the fold

const fixed = (value, digits) => (typeof value === "number" ? value.toFixed(digits) : "–");

export class Stage {
  constructor(place, onToken) {
    Object.assign(this, { place, onToken, figures: new Map(), thoughts: null, hovered: -1, count: 0, side: 0, cleared: 0 });
  }

  async draw(images, thoughts, titles = {}) {
    const { cleared } = this;
    const pictures = await Promise.all(images.map(({ file }) => createImageBitmap(file)));
    if (cleared !== this.cleared) return;
    this.thoughts = thoughts;
    const names = images.map(({ name }) => name);
    this.keepOnly(names);
    const gridded = ["dream", "reconstruction"].find((name) => names.includes(name)) ?? names[0];
    const room = this.room(names.length);
    names.forEach((name, index) => {
      const canvas = this.canvas(name, titles[name] ?? TITLES[name] ?? name);
      this.paint(canvas, pictures[index], name === "screen" ? { ...room, exactly: this.side } : room, name === gridded);
      if (!index) this.side = canvas.clientHeight; // the emulator's screen is as tall as the frame beside it
    });
    this.order(names);
    this.count += 1;
    this.place.dataset.frames = this.count;
  }

  clear(text) { // nothing is shown, and why
    this.cleared += 1; // also of frames that are being decoded
    this.keepOnly([]);
    this.place.textContent = text;
  }

  room(count) { // for one frame, in pixels of the page
    const width = this.place.clientWidth;
    const narrow = width < NARROW;
    const [gap, edge, columns] = narrow ? [8, 10, Math.min(count, 2)] : [16, 26, count];
    const [stage, end] = [this.place, document.getElementById("controls")].map((part) => part.getBoundingClientRect());
    const left = window.innerHeight - (stage.top + window.scrollY) - (end.bottom - stage.bottom) - CAPTION;
    const height = narrow ? TALLEST : Math.max(SHORTEST, Math.min(TALLEST, left));
    return { width: (width - gap * (columns - 1)) / columns - edge, height };
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

  canvas(name, title) {
    let figure = this.figures.get(name);
    if (!figure) {
      figure = document.createElement("figure");
      const canvas = document.createElement("canvas");
      canvas.setAttribute("role", "img");
      figure.append(document.createElement("figcaption"), canvas);
      this.watch(canvas);
      if (!this.figures.size) this.place.replaceChildren();
      this.figures.set(name, figure);
      this.place.append(figure);
    }
    const [caption, canvas] = figure.children;
    if (caption.textContent !== title) {
      caption.textContent = title;
      canvas.setAttribute("aria-label", title);
    }
    return canvas;
  }

  across() { return Math.round(Math.sqrt(this.thoughts?.tokens?.length ?? 1)); } // of the square of tokens

  watch(canvas) {
    const token = (event) => {
      const box = canvas.getBoundingClientRect();
      const side = this.across();
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

  paint(canvas, picture, room, gridded) {
    const ratio = window.devicePixelRatio || 1;
    const fits = Math.min(room.width / picture.width, room.height / picture.height);
    const whole = Math.floor(fits * ratio) / ratio; // of the screen's own pixels
    const scale = room.exactly ? room.exactly / picture.height : whole || fits;
    const [width, height] = [picture.width, picture.height].map((side) => Math.round(side * scale * ratio));
    if (canvas.width !== width || canvas.height !== height) {
      Object.assign(canvas, { width, height });
      Object.assign(canvas.style, { width: `${width / ratio}px`, height: `${height / ratio}px` });
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.imageSmoothingEnabled = scale !== whole;
    pen.drawImage(picture, 0, 0, width, height);
    picture.close();
    const grid = gridded && Boolean(this.thoughts?.tokens);
    canvas.classList.toggle("grid", grid);
    pen.scale(ratio, ratio);
    if (grid) this.paintTokens(pen, width / ratio, height / ratio);
  }

  paintTokens(pen, width, height) {
    const { tokens, token_probabilities: chances, token_entropies: entropies } = this.thoughts;
    const side = this.across();
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
