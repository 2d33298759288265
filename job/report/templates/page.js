"use strict";
// The drawing pad. It draws with its own pen into its own pixels, so that every browser gives the same pixels, scales them
// to 28 x 28 as job/predict/digit.py specifies, and runs the model's layers on them.
(() => {
  const model = JSON.parse(document.getElementById("model").textContent);
  const { side, box, slack } = model.field;
  const pad = document.getElementById("pad"), seen = document.getElementById("seen");
  const cursor = document.getElementById("cursor"), invite = document.getElementById("invite");
  const pen = document.getElementById("pen"), said = document.getElementById("said");
  const rows = [...document.querySelectorAll("#probabilities tbody tr")];

  const size = pad.width;
  const radius = size / 26; // the width of MNIST's strokes on a digit that fills the pad
  const stride = size / side; // of an arrow key
  const ink = new Uint8Array(size * size);
  let given = null; // an image of the test set, which the model gets unchanged
  let at = { x: size / 2, y: size / 2, down: false }; // the keyboard's pen

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const floats = (text) => new Float32Array(bytes(text).buffer);
  const layers = model.layers.map((layer) => ({ ...layer, weights: floats(layer.weights), bias: floats(layer.bias) }));

  // Steps 2 to 4 of job/predict/digit.py: ink of size x size -> side x side bytes.
  function normalise() {
    let top = size, bottom = -1, left = size, right = -1;
    for (let y = 0; y < size; y++) {
      for (let x = 0; x < size; x++) {
        if (ink[y * size + x]) {
          top = Math.min(top, y); bottom = Math.max(bottom, y);
          left = Math.min(left, x); right = Math.max(right, x);
        }
      }
    }
    const field = new Uint8Array(side * side);
    if (bottom < 0) return field;
    const high = bottom - top + 1, wide = right - left + 1, longest = Math.max(high, wide);
    const scaled = (length) => Math.max(1, Math.floor((2 * box * length + longest) / (2 * longest)));
    const height = scaled(high), width = scaled(wide);
    const down = averaging(high, height), across = averaging(wide, width);
    const half = new Float64Array(height * wide), small = new Float64Array(height * width);
    down.forEach((parts, i) => parts.forEach(([k, part]) => {
      for (let x = 0; x < wide; x++) half[i * wide + x] += part * (ink[(top + k) * size + left + x] / 255);
    }));
    across.forEach((parts, j) => parts.forEach(([k, part]) => {
      for (let i = 0; i < height; i++) small[i * width + j] += half[i * wide + k] * part;
    }));
    const byRow = new Float64Array(height), byColumn = new Float64Array(width);
    small.forEach((value, index) => {
      byRow[Math.floor(index / width)] += value;
      byColumn[index % width] += value;
    });
    const y0 = offset(byRow), x0 = offset(byColumn);
    small.forEach((value, index) => {
      const y = y0 + Math.floor(index / width), x = x0 + (index % width);
      field[y * side + x] = Math.floor(255 * value + 0.5 + slack);
    });
    return field;
  }

  // For each of the new pixels, the old ones that it covers and the weight of each.
  function averaging(before, after) {
    const step = before / after;
    return Array.from({ length: after }, (_, i) => {
      const parts = [];
      for (let k = Math.floor(i * step); k < before && k < i * step + step; k++) {
        parts.push([k, Math.max(0, Math.min(i * step + step, k + 1) - Math.max(i * step, k)) / step]);
      }
      return parts;
    });
  }

  // Where the first row or column goes, for the centre of mass to fall into the middle pixel.
  function offset(mass) {
    const total = mass.reduce((sum, value) => sum + value, 0);
    const centre = mass.reduce((sum, value, index) => sum + value * index, 0) / total;
    const middle = Math.floor(Math.floor(side / 2) - centre + 0.5 + slack);
    return Math.min(Math.max(middle, 0), side - mass.length);
  }

  const activations = {
    linear: (value) => value,
    relu: (value) => Math.max(0, value),
    tanh: Math.tanh,
    sigmoid: (value) => 1 / (1 + Math.exp(-value)),
  };

  // Bytes -> the probability of each class.
  function classify(pixels) {
    let values = Float64Array.from(pixels, (pixel) => pixel / 255);
    for (const { weights, bias, activation } of layers) {
      const next = Float64Array.from(bias);
      values.forEach((value, i) => {
        if (value) for (let j = 0; j < next.length; j++) next[j] += value * weights[i * next.length + j];
      });
      values = next.map(activations[activation]);
    }
    const largest = values.reduce((a, b) => Math.max(a, b));
    const powers = values.map((value) => Math.exp(value - largest));
    const total = powers.reduce((a, b) => a + b);
    return powers.map((value) => value / total);
  }

  function paint(canvas, pixels) {
    const image = new ImageData(canvas.width, canvas.height);
    pixels.forEach((value, index) => image.data.set([value, value, value, 255], 4 * index));
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  let due = 0;
  function refresh() {
    if (!due) due = requestAnimationFrame(show);
  }

  function show() {
    due = 0;
    const pixels = given ?? normalise();
    const blank = !pixels.some(Boolean);
    paint(pad, ink);
    paint(seen, pixels);
    invite.hidden = !blank;
    const probabilities = blank ? null : classify(pixels);
    const best = probabilities ? probabilities.indexOf(Math.max(...probabilities)) : -1;
    rows.forEach((row, index) => {
      const value = probabilities ? probabilities[index] : 0;
      row.classList.toggle("top", index === best);
      row.querySelector(".bar span").style.width = `${100 * value}%`;
      const data = row.querySelector("data");
      data.value = probabilities ? value : "";
      data.textContent = probabilities ? `${(100 * value).toFixed(1)}%` : "–";
    });
    // While the pen is down the reader is still drawing: a screen reader would read out each guess on the way.
    if (blank) said.textContent = "Nothing drawn yet";
    else if (!drawing) said.textContent = `The model says ${model.classes[best]}, at ${(100 * probabilities[best]).toFixed(1)}%`;
  }

  // A stroke of the round pen, its edge softened over one pixel.
  function stroke(from, to) {
    given = null;
    const dx = to.x - from.x, dy = to.y - from.y, length2 = dx * dx + dy * dy;
    const reach = radius + 1;
    const first = (a, b) => Math.max(0, Math.floor(Math.min(a, b) - reach));
    const last = (a, b) => Math.min(size - 1, Math.ceil(Math.max(a, b) + reach));
    for (let y = first(from.y, to.y); y <= last(from.y, to.y); y++) {
      for (let x = first(from.x, to.x); x <= last(from.x, to.x); x++) {
        const px = x + 0.5 - from.x, py = y + 0.5 - from.y;
        const along = length2 ? Math.min(1, Math.max(0, (px * dx + py * dy) / length2)) : 0;
        const distance = Math.hypot(px - along * dx, py - along * dy);
        const cover = Math.round(255 * Math.min(1, Math.max(0, radius + 0.5 - distance)));
        if (cover > ink[y * size + x]) ink[y * size + x] = cover;
      }
    }
    refresh();
  }

  function clear() {
    given = null;
    ink.fill(0);
    refresh();
  }

  // By pointer: mouse, finger, stylus.
  let drawing = null;
  function point(event) {
    const frame = pad.getBoundingClientRect();
    return { x: ((event.clientX - frame.left) * size) / frame.width, y: ((event.clientY - frame.top) * size) / frame.height };
  }
  pad.addEventListener("pointerdown", (event) => {
    if (!event.isPrimary || event.button !== 0) return;
    pad.setPointerCapture(event.pointerId);
    cursor.hidden = true;
    drawing = point(event);
    stroke(drawing, drawing);
  });
  pad.addEventListener("pointermove", (event) => {
    if (!drawing || !event.isPrimary) return;
    const passed = event.getCoalescedEvents?.() ?? [];
    for (const each of passed.length ? passed : [event]) {
      const next = point(each);
      stroke(drawing, next);
      drawing = next;
    }
  });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
    pad.addEventListener(end, (event) => {
      if (!event.isPrimary) return;
      drawing = null;
      refresh();
    });
  }

  // By keyboard.
  function place() {
    cursor.hidden = document.activeElement !== pad;
    cursor.style.left = `${(100 * at.x) / size}%`;
    cursor.style.top = `${(100 * at.y) / size}%`;
    cursor.classList.toggle("down", at.down);
    pen.setAttribute("aria-pressed", String(at.down));
  }
  function lower(down) {
    at.down = down;
    if (down) stroke(at, at);
    place();
  }
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  pad.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in steps) {
      const [dx, dy] = steps[event.key];
      const inside = (value) => Math.min(size - radius, Math.max(radius, value));
      const next = { x: inside(at.x + dx * stride), y: inside(at.y + dy * stride), down: at.down };
      if (at.down) stroke(at, next);
      at = next;
      place();
    } else if (event.key === " ") {
      lower(!at.down);
    } else if (event.key === "Delete" || event.key === "Backspace") {
      lower(false);
      clear();
    } else {
      return;
    }
    event.preventDefault();
  });
  pad.addEventListener("focus", () => { if (pad.matches(":focus-visible")) place(); });
  pad.addEventListener("blur", () => { cursor.hidden = true; });
  pen.addEventListener("click", () => {
    pad.focus();
    lower(!at.down);
  });
  document.getElementById("clear").addEventListener("click", () => {
    lower(false);
    clear();
  });

  // A test image of the gallery, enlarged onto the pad; the model gets its 28 x 28 pixels as they are.
  for (const button of document.querySelectorAll("[data-picture]")) {
    button.addEventListener("click", () => {
      given = bytes(model.pictures[Number(button.dataset.picture)]);
      const grow = size / side;
      for (let index = 0; index < ink.length; index++) {
        const y = Math.floor(Math.floor(index / size) / grow), x = Math.floor((index % size) / grow);
        ink[index] = given[y * side + x];
      }
      at.down = false;
      refresh();
      const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
      pad.focus({ preventScroll: true });
      pad.scrollIntoView({ behavior: calm ? "auto" : "smooth", block: "center" });
    });
  }

  show();
})();
