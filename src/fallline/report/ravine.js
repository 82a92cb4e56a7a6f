"use strict";
// Draws paths that the engine has computed; computes none itself. All data stand in the page.
(() => {
  const D = JSON.parse(document.getElementById("data").textContent);
  const bytes = Uint8Array.from(atob(D.paths), (c) => c.charCodeAt(0));
  const raw = new Int16Array(bytes.buffer);
  const N = D.steps + 1, M = D.momentum.length, K = 1 + 2 * (M - 1), L = D.lr.length;
  const $ = (id) => document.getElementById(id);
  const state = { lr: D.at.lr, momentum: D.at.momentum, noise: 0, step: D.steps };
  const [left, top, wide, high] = D.inner;

  // Position and value of one path at one update: null where it has left the numbers that are kept.
  function point(method, k) {
    const own = method === 0 ? 0 : state.momentum === 0 ? 0 : 2 * (state.momentum - 1) + method;
    const i = 3 * (((state.noise * L + state.lr) * K + own) * N + k);
    if (raw[i] === -32768) return null;
    return { x: left + (raw[i] / D.scale) * wide, y: top + (1 - raw[i + 1] / D.scale) * high, log: raw[i + 2] / D.logscale };
  }
  const number = (v) => (v >= 1e4 || v < 1e-3 ? v.toExponential(1) : String(+v.toPrecision(3)));
  const shown = (m) => $("show-" + m).checked;

  function path(m, last) {
    const out = [];
    for (let k = 0; k <= last; k++) {
      const p = point(m, k);
      if (!p) break;
      out.push(p);
    }
    return out;
  }

  function draw() {
    const tracks = D.names.map((_, m) => path(m, state.step));
    D.names.forEach((_, m) => {
      const way = tracks[m], end = way[way.length - 1], on = shown(m);
      $("path-" + m).setAttribute("points", on ? way.map((p) => p.x.toFixed(1) + "," + p.y.toFixed(1)).join(" ") : "");
      const steps = on && D.steps <= 150 ? way.map((p) => `M${p.x.toFixed(1)} ${p.y.toFixed(1)}h0`).join("") : "";
      $("dots-" + m).setAttribute("d", steps);
      $("ball-" + m).setAttribute("display", on ? "inline" : "none");
      $("ball-" + m).setAttribute("cx", end.x.toFixed(1));
      $("ball-" + m).setAttribute("cy", end.y.toFixed(1));
      const lost = way.length <= state.step;
      $("value-" + m).textContent = lost ? `gone at update ${way.length}` : number(10 ** end.log);
      $("value-" + m).className = lost ? "bad" : "";
      const edge = D.edges[m][state.momentum];
      $("edge-" + m).textContent = edge === null ? "" : `edge ${number(edge)}`;
      $("edge-" + m).className = "small " + (edge !== null && D.lr[state.lr] > edge ? "bad" : "soft");
    });
    $("lr-value").textContent = number(D.lr[state.lr]);
    $("momentum-value").textContent = String(D.momentum[state.momentum]);
    $("step-value").textContent = `${state.step} of ${D.steps}`;
    $("step").value = state.step;
    curves();
  }

  // The value by update, on a log axis of whole decades.
  function curves() {
    const tracks = D.names.map((_, m) => path(m, D.steps));
    const hi = Math.ceil(tracks[0][0].log + 0.3);
    let lo = hi - 2;
    tracks.forEach((t, m) => shown(m) && t.forEach((p) => (lo = Math.min(lo, Math.floor(p.log)))));
    lo = Math.max(lo, hi - 10);
    const H = 170, y = (v) => 8 + ((hi - v) / (hi - lo)) * (H - 16), x = (k) => left + (k / D.steps) * wide;
    const every = Math.max(1, Math.ceil((hi - lo) / 5));
    let grid = "";
    for (let d = lo; d <= hi; d += every) {
      grid += `<line x1="${left}" x2="${left + wide}" y1="${y(d)}" y2="${y(d)}" stroke="currentColor" stroke-opacity=".12"/>`;
      grid += `<text x="${left - 6}" y="${y(d) + 4}" text-anchor="end" font-size="11" fill="currentColor" opacity=".75">1e${d}</text>`;
    }
    $("grid").innerHTML = grid;
    D.names.forEach((_, m) => {
      const line = shown(m) ? tracks[m].map((p, k) => `${x(k).toFixed(1)},${y(Math.max(lo - 1, Math.min(p.log, hi + 1))).toFixed(1)}`) : [];
      $("curve-" + m).setAttribute("points", line.join(" "));
    });
    $("now").setAttribute("x1", x(state.step));
    $("now").setAttribute("x2", x(state.step));
  }

  let playing = 0;
  function stop() {
    cancelAnimationFrame(playing);
    playing = 0;
    $("play").textContent = "Play";
  }
  function play() {
    if (playing) return stop();
    if (state.step >= D.steps) state.step = 0;
    $("play").textContent = "Pause";
    const began = performance.now(), first = state.step;
    const tick = (now) => {
      state.step = Math.min(D.steps, first + Math.floor(((now - began) / 1000) * Math.max(8, D.steps / 8)));
      draw();
      if (state.step >= D.steps) return stop();
      playing = requestAnimationFrame(tick);
    };
    playing = requestAnimationFrame(tick);
  }

  for (const name of ["lr", "momentum", "step"]) {
    $(name).addEventListener("input", (event) => {
      if (name === "step") stop();
      state[name] = Number(event.target.value);
      draw();
    });
  }
  document.querySelectorAll("input[name=noise]").forEach((radio) =>
    radio.addEventListener("change", (event) => { state.noise = Number(event.target.value); draw(); }));
  D.names.forEach((_, m) => $("show-" + m).addEventListener("change", draw));
  $("play").addEventListener("click", play);
  draw();
})();
