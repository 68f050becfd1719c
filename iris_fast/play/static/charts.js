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
  const left = Math.min(110, width * 0.4);
  values.forEach((value, index) => {
    const y = index * row;
    pen.fillStyle = COLOURS.text;
    if (row >= 9) pen.fillText(names[index] ?? index, 0, y + row * 0.72, left - 6);
    pen.fillStyle = COLOURS.line;
    pen.fillRect(left, y + 2, width - left, row - 4);
    pen.fillStyle = index === chosen ? COLOURS.chosen : COLOURS.bar;
    pen.fillRect(left, y + 2, (width - left) * Math.min(1, Math.max(0, value)), row - 4);
  });
}

export function drawCurve(canvas, values) {
  const { pen, width, height } = prepared(canvas);
  if (values.length < 2) return;
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const at = (value) => height - 6 - ((value - low) / (high - low || 1)) * (height - 12);
  pen.strokeStyle = COLOURS.bar;
  pen.lineWidth = 1.5;
  pen.beginPath();
  values.forEach((value, index) => pen.lineTo((index / (values.length - 1)) * width, at(value)));
  pen.stroke();
  pen.fillStyle = COLOURS.text;
  pen.fillText(high.toFixed(2), 0, 11);
  pen.fillText(low.toFixed(2), 0, height - 2);
}
