// Brings the page of a case to life: NiiVue for volumes, toggles, phases, keys. Everything it needs is in the page.
(() => {
  "use strict";
  const byId = (id) => document.getElementById(id);
  const all = (selector) => Array.from(document.querySelectorAll(selector));
  const settings = JSON.parse(byId("settings").textContent);
  const volume = settings.volume;
  const TYPES = { slice: 0, planes: 3, render: 4 }; // NiiVue's: axial, multiplanar, render
  const SLOWEST_MS = 30;
  const VIEWS = ["slice", "planes", "render"];
  const PARENTS_KEYS = ["j", "k", "a", "r", "u", "/"]; // of the review, which shows this page in a frame
  const HIGH_DOUBT = 0.25;
  const state = { phase: 0, slice: 0, view: "slice", opacity: 0.5, mask: true, hidden: new Set(), timer: 0 };
  let nv = null;

  // --- structures ---------------------------------------------------------------------------------------------------

  function colours() {
    const shown = (one) => (state.mask && !state.hidden.has(one.index) ? 255 : 0);
    const rows = settings.structures;
    return {
      I: [0, ...rows.map((one) => one.index)],
      R: [0, ...rows.map((one) => one.colour[0])],
      G: [0, ...rows.map((one) => one.colour[1])],
      B: [0, ...rows.map((one) => one.colour[2])],
      A: [0, ...rows.map(shown)],
      labels: ["", ...rows.map((one) => one.name)],
    };
  }

  function showMask() {
    if (nv) {
      nv.volumes[1].setColormapLabel(colours());
      nv.setOpacity(1, state.opacity); // draws anew, too
    }
    for (const line of all("[data-contour]")) {
      const visible = state.mask && !state.hidden.has(Number(line.dataset.contour));
      line.style.display = visible ? "" : "none";
      line.style.opacity = Math.min(1, 2 * state.opacity);
    }
  }

  function toggle(index) {
    const box = document.querySelector(`[data-structure="${index}"]`);
    if (!box) return;
    state.hidden.has(index) ? state.hidden.delete(index) : state.hidden.add(index);
    box.checked = !state.hidden.has(index);
    showMask();
  }

  // --- where one looks ----------------------------------------------------------------------------------------------

  function say(value) {
    if (!volume) return;
    const words = [`slice ${state.slice + 1} of ${volume.slices}`];
    if (volume.phases > 1) {
      const time = volume.times.length ? `, ${Math.round(volume.times[state.phase])} ms` : "";
      const moment = Object.keys(volume.moments).find((name) => volume.moments[name] === state.phase);
      words.push(`phase ${volume.numbers[state.phase]}${time}${moment ? `, ${moment.toUpperCase()}` : ""}`);
    }
    if (value !== undefined) words.push(`value ${value}`);
    byId("where").textContent = words.join(" \u00b7 ");
  }

  function mark() {
    const distance = (one) => 1000 * Math.abs(one.phase - state.phase) + Math.abs(one.slice - state.slice);
    let best = -1;
    settings.pictures.forEach((one, place) => {
      if (best < 0 || distance(one) < distance(settings.pictures[best])) best = place;
    });
    all("[data-picture]").forEach((button, place) => {
      if (place === best) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    });
    const strip = document.querySelector(".strip");
    const current = document.querySelector("[aria-current]");
    if (strip && current) strip.scrollLeft = current.parentElement.offsetLeft - strip.clientWidth / 3;
    return best;
  }

  function centreOf(slice) {
    return volume.centre.map((one, axis) => one + slice * volume.step[axis]);
  }

  function go(phase, slice) {
    if (!volume && !settings.pictures.length) return;
    if (volume) {
      state.phase = Math.min(Math.max(phase, 0), volume.phases - 1);
      state.slice = Math.min(Math.max(slice, 0), volume.slices - 1);
    } else {
      Object.assign(state, { phase, slice });
    }
    if (nv) {
      for (const one of nv.volumes) if (one.frame4D !== state.phase) nv.setFrame4D(one.id, state.phase);
      nv.scene.crosshairPos = nv.mm2frac(centreOf(state.slice));
      nv.drawScene();
    }
    const best = mark();
    const still = byId("still");
    if (still && best >= 0) {
      still.src = document.querySelector(`[data-picture="${best}"] img`).src;
      still.alt = settings.pictures[best].title;
    }
    for (const [id, value] of [["slice", state.slice], ["phase", state.phase]]) if (byId(id)) byId(id).value = value;
    say();
  }

  function moved(location) {
    const point = [...location.mm.slice(0, 3), 1];
    const slice = Math.round(volume.row.reduce((sum, factor, axis) => sum + factor * point[axis], 0));
    if (slice >= 0 && slice < volume.slices && slice !== state.slice) {
      state.slice = slice;
      byId("slice").value = slice;
      mark();
    }
    const value = location.values && location.values[0] ? Math.round(10 * location.values[0].value) / 10 : undefined;
    say(value);
  }

  // NiiVue shows of its box of mm the part ((low, high) - pan) / zoom: the focus is to be in the middle of it.
  function panAndZoom() {
    if (!volume.focus) return [0, 0, 0, 1];
    const { centre, zoom } = volume.focus;
    const share = nv.mm2frac(centre);
    const pan = [0, 1, 2].map((axis) => {
      const [low, high] = [nv.volumes[0].extentsMinOrtho[axis], nv.volumes[0].extentsMaxOrtho[axis]];
      return (low + high) / 2 - zoom * (low + share[axis] * (high - low));
    });
    return [...pan, zoom];
  }

  function show(view) {
    state.view = view;
    if (nv) {
      nv.setCrosshairWidth(view === "slice" ? 0 : 0.6); // it would lie on the mask
      nv.setPan2Dxyzmm(view === "slice" ? panAndZoom() : [0, 0, 0, 1]);
      nv.setSliceType(TYPES[view]);
    }
    for (const letter of all(".edge")) letter.hidden = view !== "slice";
    for (const button of all("[data-view]")) button.setAttribute("aria-pressed", String(button.dataset.view === view));
  }

  function play(on = !state.timer) {
    clearInterval(state.timer);
    state.timer = 0;
    if (on && volume && volume.phases > 1) {
      const [first, last] = [volume.times[0], volume.times[volume.phases - 1]];
      const step = volume.times.length ? (last - first) / (volume.phases - 1) : 50;
      state.timer = setInterval(() => go((state.phase + 1) % volume.phases, state.slice), Math.max(step, SLOWEST_MS));
    }
    byId("play").setAttribute("aria-pressed", String(Boolean(state.timer)));
    byId("play").textContent = state.timer ? "Stop" : "Play";
  }

  // --- keys and controls --------------------------------------------------------------------------------------------

  function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.repeat && !event.key.startsWith("Arrow") && !["j", "k"].includes(event.key)) return; // a held key
    const typing = event.target.matches("input[type=text], textarea, select");
    const sliding = event.target.matches("input[type=range]") && event.key.startsWith("Arrow");
    if (typing || sliding) return;
    const onButton = event.target.matches("button, input, summary") && event.key === " ";
    const actions = {
      ArrowUp: () => go(state.phase, state.slice + 1),
      ArrowDown: () => go(state.phase, state.slice - 1),
      ArrowRight: () => volume && go((state.phase + 1) % volume.phases, state.slice),
      ArrowLeft: () => volume && go((state.phase + volume.phases - 1) % volume.phases, state.slice),
      " ": () => byId("play") && play(),
      v: () => nv && show(VIEWS[(VIEWS.indexOf(state.view) + 1) % VIEWS.length]),
      m: () => { state.mask = !state.mask; showMask(); },
    };
    if (onButton) return;
    if (/^[1-9]$/.test(event.key)) toggle(Number(event.key));
    else if (actions[event.key]) actions[event.key]();
    else if (window.parent !== window && PARENTS_KEYS.includes(event.key)) {
      window.parent.postMessage({ key: event.key }, "*");
    } else return;
    event.preventDefault();
    event.stopPropagation(); // NiiVue has keys of its own
  }

  function connect() {
    document.addEventListener("keydown", pressed, true);
    for (const box of all("[data-structure]")) {
      box.addEventListener("change", () => {
        const index = Number(box.dataset.structure);
        box.checked ? state.hidden.delete(index) : state.hidden.add(index);
        showMask();
      });
    }
    byId("opacity").addEventListener("input", (event) => { state.opacity = event.target.value / 100; showMask(); });
    for (const button of all("[data-go]")) {
      button.addEventListener("click", () => {
        const [phase, slice] = button.dataset.go.split(",").map(Number);
        go(phase, slice);
        if (!button.dataset.picture) byId("where").scrollIntoView({ block: "nearest" });
      });
    }
    for (const bar of all("[data-slice]")) bar.addEventListener("click", () => go(state.phase, Number(bar.dataset.slice)));
    for (const doubt of all("[data-doubt]")) doubt.classList.toggle("high", Number(doubt.dataset.doubt) >= HIGH_DOUBT);
    if (!volume) return;
    for (const button of all("[data-view]")) button.addEventListener("click", () => nv && show(button.dataset.view));
    byId("slice").max = volume.slices - 1;
    byId("slice").addEventListener("input", (event) => go(state.phase, Number(event.target.value)));
    if (volume.phases > 1) {
      byId("phase").max = volume.phases - 1;
      byId("phase").addEventListener("input", (event) => go(Number(event.target.value), state.slice));
      byId("play").addEventListener("click", () => play());
    }
  }

  // --- the volume ---------------------------------------------------------------------------------------------------

  async function unpacked(id) {
    const bytes = Uint8Array.from(atob(byId(id).textContent), (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")));
  }

  async function start() {
    const script = document.createElement("script");
    script.textContent = await (await unpacked("niivue-data")).text();
    document.head.append(script);
    const viewer = new window.niivue.Niivue({
      backColor: [0, 0, 0, 1],
      clipPlaneHotKey: "",
      crosshairColor: [1, 0.75, 0.2, 0.7],
      crosshairWidth: 0.6,
      dragAndDropEnabled: false,
      isOrientationTextVisible: false, // the page has its own letters
      isRadiologicalConvention: true,
      logLevel: "error",
      show3Dcrosshair: false,
      viewModeHotKey: "",
    });
    await viewer.attachToCanvas(byId("canvas"));
    viewer.onLocationChange = moved;
    for (const [id, colormap] of [["image-data", "gray"], ["mask-data", "gray"]]) {
      const buffer = await (await unpacked(id)).arrayBuffer();
      viewer.addVolume(await window.niivue.NVImage.loadFromFile({
        file: new File([buffer], `${id}.nii`),
        name: `${id}.nii`,
        colormap,
      }));
    }
    const image = viewer.volumes[0];
    [image.cal_min, image.cal_max] = volume.window;
    viewer.updateGLVolume();
    return viewer;
  }

  function withoutViewer(why) {
    if (!byId("canvas")) return;
    byId("canvas").hidden = true;
    byId("still").hidden = false;
    byId("without").hidden = false;
    byId("without").textContent = `${why}: the slices are shown as they were drawn beforehand.`;
    for (const box of all("[data-structure], #opacity, [data-view]")) box.disabled = true;
    for (const letter of all(".edge")) letter.hidden = true;
  }

  async function begin() {
    connect();
    if (volume && !document.createElement("canvas").getContext("webgl2")) {
      withoutViewer("This browser has no WebGL2");
    } else if (volume) {
      try {
        nv = await start();
        show("slice");
      } catch (error) {
        nv = null;
        withoutViewer(`The viewer did not start (${error.message})`);
      }
    } else if (settings.pictures.length) {
      withoutViewer("The image is too large for a page");
    }
    showMask();
    go(volume ? volume.start[0] : 0, volume ? volume.start[1] : 0);
    document.documentElement.dataset.ready = nv ? "viewer" : "still";
    window.report = { state, viewer: nv, settings };
  }

  begin();
})();
