// The trajectory in three dimensions, by 3Dmol.js: frames, bonds of each frame, cell, controls.
(function () {
  "use strict";
  const COLORS = "Jmol";
  const page = window.eqcalcPage, scene = page.data.scene;
  const root = document.documentElement;
  if (!scene) return;
  const find = (id) => document.getElementById(id);
  const frames = scene.numbers.length, atoms = scene.kinds.length;
  const large = atoms > 4000; // sticks of so many take long to draw
  const packed = unpack(scene.positions);

  function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    const numbers = new Int16Array(bytes.length / 2);
    for (let k = 0; k < numbers.length; k++) numbers[k] = view.getInt16(2 * k, true);
    return numbers;
  }

  function placeOf(frame) {
    const place = new Float64Array(3 * atoms), start = 3 * atoms * frame;
    for (let k = 0; k < place.length; k++) {
      place[k] = scene.origin[k % 3] + scene.unit * packed[start + k];
    }
    return place;
  }

  // Pairs closer than their radii allow, by bins as wide as the longest bond.
  function bondsOf(place) {
    const reach = 2 * Math.max(...scene.radii) + scene.tolerance;
    const bins = new Map();
    const key = (x, y, z) => x + "," + y + "," + z;
    const bin = (k) => Math.floor(place[k] / reach);
    for (let k = 0; k < atoms; k++) {
      const name = key(bin(3 * k), bin(3 * k + 1), bin(3 * k + 2));
      if (bins.has(name)) bins.get(name).push(k); else bins.set(name, [k]);
    }
    const bonds = Array.from({ length: atoms }, () => []);
    for (let k = 0; k < atoms; k++) {
      const [x, y, z] = [bin(3 * k), bin(3 * k + 1), bin(3 * k + 2)];
      for (let d = 0; d < 27; d++) {
        const name = key(x + d % 3 - 1, y + Math.floor(d / 3) % 3 - 1, z + Math.floor(d / 9) - 1);
        for (const other of bins.get(name) || []) {
          if (other <= k) continue;
          const dx = place[3 * k] - place[3 * other];
          const dy = place[3 * k + 1] - place[3 * other + 1];
          const dz = place[3 * k + 2] - place[3 * other + 2];
          const longest = scene.radii[scene.kinds[k]] + scene.radii[scene.kinds[other]]
            + scene.tolerance;
          if (dx * dx + dy * dy + dz * dz < longest * longest) {
            bonds[k].push(other);
            bonds[other].push(k);
          }
        }
      }
    }
    return bonds;
  }

  let viewer;
  try {
    viewer = $3Dmol.createViewer(find("viewer"), { backgroundColor: "#ffffff", antialias: true });
  } catch (error) {
    viewer = null;
  }
  if (!viewer || !find("viewer").querySelector("canvas")) {
    find("viewer").textContent = "This browser draws nothing in three dimensions (no WebGL).";
    root.dataset.viewer = "none";
    return;
  }

  const first = placeOf(0), firstBonds = large ? null : bondsOf(first);
  const model = viewer.addModel();
  model.addAtoms(scene.kinds.map((kind, k) => ({
    elem: scene.elements[kind], index: k, serial: k, x: first[3 * k], y: first[3 * k + 1],
    z: first[3 * k + 2], bonds: firstBonds ? firstBonds[k] : [],
    bondOrder: firstBonds ? firstBonds[k].map(() => 1) : [],
  })));
  const shown = model.selectedAtoms({});
  const crowded = firstBonds && firstBonds.reduce((n, own) => n + own.length, 0) / atoms > 5;
  const state = { frame: 0, playing: false, cell: null, outline: true };
  const style = find("style");
  style.value = large || crowded ? "spheres" : "ball";
  if (large) for (const option of [...style.options]) option.disabled = option.value !== "spheres";

  function applyStyle() {
    scene.elements.forEach((element, kind) => {
      const radius = scene.radii[kind];
      const look = {
        ball: {
          stick: { radius: 0.11, colorscheme: COLORS },
          sphere: { radius: 0.18 + 0.22 * radius, colorscheme: COLORS },
        },
        spheres: { sphere: { radius: 0.15 + 0.6 * radius, colorscheme: COLORS } },
        sticks: { stick: { radius: 0.13, colorscheme: COLORS } },
      }[style.value];
      model.setStyle({ elem: element }, look);
    });
  }

  function drawCell(frame) {
    if (state.cell) { viewer.removeShape(state.cell); state.cell = null; }
    if (!scene.cells || !state.outline) return;
    const cell = scene.cells[Math.min(frame, scene.cells.length - 1)];
    const corner = (i, j, k) => ({
      x: i * cell[0] + j * cell[3] + k * cell[6],
      y: i * cell[1] + j * cell[4] + k * cell[7],
      z: i * cell[2] + j * cell[5] + k * cell[8],
    });
    const longest = Math.max(...cell.map(Math.abs));
    const thickness = Math.min(0.08, Math.max(0.02, 0.002 * longest));
    const shape = viewer.addShape({ color: "#8c97a3" });
    for (const [i, j] of [[0, 0], [0, 1], [1, 0], [1, 1]]) {
      for (const [from, to] of [[corner(0, i, j), corner(1, i, j)],
        [corner(i, 0, j), corner(i, 1, j)], [corner(i, j, 0), corner(i, j, 1)]]) {
        shape.addCylinder({ start: from, end: to, radius: thickness, fromCap: 1, toCap: 1 });
      }
    }
    state.cell = shape;
  }

  function show(frame) {
    state.frame = frame;
    const place = placeOf(frame), bonds = large ? null : bondsOf(place);
    shown.forEach((atom, k) => {
      atom.x = place[3 * k]; atom.y = place[3 * k + 1]; atom.z = place[3 * k + 2];
      if (bonds) { atom.bonds = bonds[k]; atom.bondOrder = bonds[k].map(() => 1); }
    });
    applyStyle();
    if (scene.cells && (scene.cells.length > 1 || !state.cell)) drawCell(frame);
    viewer.render();
    find("slider").value = frame;
    const time = scene.times[frame];
    find("when").textContent = time === null ? "frame " + scene.numbers[frame]
      : Number(time.toPrecision(6)) + " ps";
    page.mark(time);
    root.dataset.frame = String(frame);
  }

  let last = 0;
  function step(now) {
    if (!state.playing) return;
    if (now - last > 1000 / Number(find("speed").value)) {
      last = now;
      show((state.frame + 1) % frames);
    }
    requestAnimationFrame(step);
  }
  function play(on) {
    state.playing = on && frames > 1;
    find("play").textContent = state.playing ? "❚❚" : "▶";
    find("play").setAttribute("aria-label", state.playing ? "pause" : "play");
    if (state.playing) requestAnimationFrame(step);
  }

  find("slider").max = frames - 1;
  find("play").disabled = frames < 2;
  find("play").addEventListener("click", () => play(!state.playing));
  find("slider").addEventListener("input", (event) => {
    play(false);
    show(Number(event.target.value));
  });
  style.addEventListener("change", () => { applyStyle(); viewer.render(); });
  find("spin").addEventListener("change", (event) =>
    viewer.spin(event.target.checked ? "y" : false, 0.6));
  find("reset").addEventListener("click", () => { look(); });
  if (scene.cells) find("cell-choice").hidden = false;
  find("cell").addEventListener("change", (event) => {
    state.outline = event.target.checked;
    drawCell(state.frame);
    viewer.render();
  });
  page.seek = (time) => {
    let best = 0;
    scene.times.forEach((t, k) => {
      if (t !== null && Math.abs(t - time) < Math.abs(scene.times[best] - time)) best = k;
    });
    play(false);
    show(best);
  };

  // Rotate about the horizontal line of the screen, whichever way the model is turned:
  // in the model's own directions that line is the inverse rotation of x.
  function tilt(degrees) {
    const [x, y, z, w] = viewer.getView().slice(4);
    viewer.rotate(degrees, {
      x: w * w + x * x - y * y - z * z, y: 2 * (x * y - w * z), z: 2 * (x * z + w * y),
    });
  }

  // From a little above and beside, so that a cell is seen as a body.
  function look() {
    viewer.setView([0, 0, 0, 0, 0, 0, 0, 1]);
    if (scene.cells) viewer.rotate(-90, "x"); // the third vector upwards, as slabs are built
    viewer.rotate(-25, scene.cells ? "z" : "y");
    tilt(15);
    viewer.zoomTo();
    viewer.zoom(1.1);
    viewer.render();
  }

  scene.elements.forEach((element) => {
    const color = $3Dmol.elementColors[COLORS][element];
    const entry = document.createElement("span");
    const dot = document.createElement("span");
    dot.className = "dot";
    dot.style.background = "#" + (color === undefined ? 0xff1493 : color)
      .toString(16).padStart(6, "0");
    entry.append(dot, element);
    find("legend").append(entry);
  });
  window.addEventListener("resize", () => { viewer.resize(); });
  show(0);
  look();
  page.redraw();
  // report.html#t=1.5 opens at 1.5 ps; report.html#playing plays at once.
  const wish = new URLSearchParams(window.location.hash.slice(1));
  if (wish.has("t") && isFinite(Number(wish.get("t")))) page.seek(Number(wish.get("t")));
  if (wish.has("playing")) play(true);
  root.dataset.viewer = "ready";
})();
