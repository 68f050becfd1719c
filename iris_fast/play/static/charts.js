// Bars and a running curve on canvases.

const COLOURS = { bar: "#5eead4", chosen: "#fbbf24", text: "#94a0bd", line: "#27314d" };

function prepared(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.font = "11px system-ui, sans-serif";
  return { pen, width, height };
}

export function drawBars(canvas, names, values, chosen = -1) {
  const { pen, width, height } = prepared(canvas);
  const row = Math.min(22, height / values.length);
  const [left, end] = [Math.min(110, width * 0.4), width - 34]; // of the bars: names before them, numbers after them
  values.forEach((value, index) => {
    const y = index * row;
    pen.fillStyle = COLOURS.text;
    if (row >= 9) pen.fillText(names[index] ?? index, 0, y + row * 0.72, left - 6);
    if (row >= 9) pen.fillText(value?.toFixed(2) ?? "–", end + 6, y + row * 0.72);
    pen.fillStyle = COLOURS.line;
    pen.fillRect(left, y + 2, end - left, row - 4);
    pen.fillStyle = index === chosen ? COLOURS.chosen : COLOURS.bar;
    pen.fillRect(left, y + 2, (end - left) * Math.min(1, Math.max(0, value)), row - 4);
  });
}

const RECENT = 50; // values that choose the curve's range
const LEAST = 0.1; // half of the least range, so that noise stays flat

// The range of a curve: of its recent values without the outermost tenth, so that a jump at the beginning does not
// squash what follows.
export function rangeOf(values) {
  const sorted = values.slice(-RECENT).sort((one, other) => one - other);
  const [low, high] = [0.1, 0.9].map((part) => sorted[Math.round(part * (sorted.length - 1))]);
  const [middle, half] = [(low + high) / 2, (high - low) / 2];
  const reach = Math.max(1.5 * half, LEAST, 0.03 * Math.abs(middle));
  return [middle - reach, middle + reach];
}

export function drawCurve(canvas, values) {
  const { pen, width, height } = prepared(canvas);
  if (values.length < 2) return;
  const [low, high] = rangeOf(values);
  const at = (value) => height - 6 - ((Math.min(high, Math.max(low, value)) - low) / (high - low)) * (height - 12);
  pen.strokeStyle = COLOURS.bar;
  pen.lineWidth = 1.5;
  pen.beginPath();
  values.forEach((value, index) => pen.lineTo((index / (values.length - 1)) * width, at(value)));
  pen.stroke();
  pen.fillStyle = COLOURS.text;
  pen.fillText(high.toFixed(2), 0, 11);
  pen.fillText(low.toFixed(2), 0, height - 2);
}
