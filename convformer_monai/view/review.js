// The list of cases and the decisions on them.
(() => {
  "use strict";
  const byId = (id) => document.getElementById(id);
  const settings = JSON.parse(byId("settings").textContent);
  const MOST_ROWS = 2000; // shown at once; the filters lead to the others
  const state = { cases: [], shown: [], current: null, sort: "flags", down: true, busy: false };

  async function ask(path, options = {}) {
    const answer = await fetch(path, { credentials: "same-origin", ...options });
    const content = await answer.json();
    if (!answer.ok) throw new Error(content.error);
    return content;
  }

  function say(words, bad = false) {
    byId("message").textContent = words;
    byId("message").classList.toggle("bad", bad);
  }

  // --- the list -----------------------------------------------------------------------------------------------------

  const chosen = () => byId("measurement").value;
  const valueOf = (one) => (one.numbers[chosen()] === undefined ? null : one.numbers[chosen()]);
  const keys = {
    name: (one) => one.name,
    decision: (one) => one.decision,
    flags: (one) => one.flags.length,
    doubt: (one) => one.doubt,
    value: valueOf,
  };

  function within(value, low, high) {
    if (low === "" && high === "") return true;
    return value !== null && (low === "" || value >= Number(low)) && (high === "" || value <= Number(high));
  }

  function fits(one) {
    const flag = byId("flag").value;
    const codes = one.flags.map((each) => each.code);
    const doubt = byId("doubt").value === "" ? "" : byId("doubt").value / 100;
    return (
      one.name.toLowerCase().includes(byId("name").value.trim().toLowerCase()) &&
      (!byId("decision").value || one.decision === byId("decision").value) &&
      (!flag || (flag === "+" && codes.length) || (flag === "-" && !codes.length) || codes.includes(flag)) &&
      within(one.doubt, doubt, "") &&
      within(valueOf(one), byId("low").value, byId("high").value)
    );
  }

  function before(one, two) {
    const [first, second] = [keys[state.sort](one), keys[state.sort](two)];
    if (first === second) return one.name.localeCompare(two.name, "en", { numeric: true });
    if (first === null || second === null) return first === null ? 1 : -1; // what is unknown comes last
    const order = typeof first === "string" ? first.localeCompare(second, "en", { numeric: true }) : first - second;
    return state.down ? -order : order;
  }

  function cell(row, text, style = "") {
    const one = row.insertCell();
    one.textContent = text;
    one.className = style;
    return one;
  }

  function rowOf(one) {
    const row = document.createElement("tr");
    row.dataset.id = one.id;
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = one.name;
    row.insertCell().append(button);
    const value = valueOf(one);
    cell(row, value === null ? "" : String(Number(value.toPrecision(4))), "number");
    cell(row, one.doubt === null ? "" : `${Math.round(100 * one.doubt)}%`, "number");
    const flags = cell(row, "");
    const codes = [...new Set(one.flags.map((each) => each.code))];
    for (const code of codes.slice(0, 1)) {
      const mark = document.createElement("span");
      mark.className = "flag";
      mark.textContent = code;
      flags.append(mark, " ");
    }
    if (codes.length > 1) flags.append(`+${codes.length - 1}`);
    flags.title = codes.join(", ");
    cell(row, one.decision, one.decision).title = one.reason;
    if (one.id === state.current) markRow(row, true);
    return row;
  }

  function markRow(row, on) {
    row.classList.toggle("current", on);
    const button = row.querySelector("button");
    if (on) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }

  function list() {
    state.shown = state.cases.filter(fits).sort(before);
    document.querySelector("#cases tbody").replaceChildren(...state.shown.slice(0, MOST_ROWS).map(rowOf));
    const open = state.cases.filter((one) => one.decision === "open").length;
    const hidden = state.shown.length > MOST_ROWS ? `, the first ${MOST_ROWS} of them listed` : "";
    byId("count").textContent = `${state.shown.length} of ${state.cases.length} cases${hidden}, ${open} open`;
    for (const button of document.querySelectorAll("[data-sort]")) {
      const heading = button.parentElement;
      if (button.dataset.sort === state.sort) heading.setAttribute("aria-sort", state.down ? "descending" : "ascending");
      else heading.removeAttribute("aria-sort");
    }
    byId("value-title").textContent = chosen() ? settings.units[chosen()].replace(/^1$/, "number") : "value";
  }

  // --- one case -----------------------------------------------------------------------------------------------------

  const current = () => state.cases.find((one) => one.id === state.current);

  function show(id) {
    if (!id) return;
    for (const row of document.querySelectorAll("#cases tbody tr")) {
      markRow(row, row.dataset.id === id);
      if (row.dataset.id === id) row.scrollIntoView({ block: "nearest" });
    }
    state.current = id;
    byId("page").src = `case/${id}/page`;
    say("");
    describe();
  }

  function describe() {
    const one = current();
    byId("title").textContent = one ? one.name : "";
    byId("reason").value = one ? one.reason : "";
    for (const name of ["accept", "reject", "reopen", "reason"]) byId(name).disabled = !one;
    byId("upload").disabled = !one || !one.correctable;
    byId("accept").disabled = !one || one.decision === "corrected"; // reopen it to take the bundle's mask
    byId("reopen").hidden = !one || one.decision === "open";
  }

  function step(by) {
    const place = state.shown.findIndex((one) => one.id === state.current);
    const next = state.shown[Math.min(Math.max(place + by, 0), state.shown.length - 1)];
    if (next) show(next.id);
  }

  function keep(changed) {
    state.cases[state.cases.findIndex((one) => one.id === changed.id)] = changed;
  }

  // Sends what changes a case, one request at a time, and goes on to the next case of the list as it was.
  async function change(one, path, body, headers = {}) {
    if (state.busy) return;
    state.busy = true;
    const after = state.shown[state.shown.findIndex((each) => each.id === one.id) + 1];
    try {
      const changed = await ask(`case/${one.id}/${path}`, { method: "POST", body, headers });
      keep(changed);
      list();
      if (changed.decision !== "open" && after) show(after.id);
      else describe();
      say(`${one.name}: ${changed.decision}`);
    } catch (error) {
      state.cases = await ask("cases.json").catch(() => state.cases); // somebody else may have decided
      list();
      describe();
      say(error.message, true);
    }
    state.busy = false;
  }

  function decide(decision, reason = "") {
    const one = current();
    if (one) change(one, "decision", JSON.stringify({ decision, reason, seen: one.time }));
  }

  function reject() {
    const reason = byId("reason").value;
    if (!reason.trim()) {
      byId("reason").focus();
      return;
    }
    byId("reason").blur(); // so that the next key is a key of the list
    decide("rejected", reason);
  }

  async function upload(file) {
    const one = current();
    if (!one || !file) return;
    say(`${file.name} is being checked`);
    await change(one, "mask", file, { "X-Filename": encodeURIComponent(file.name), "X-Seen": one.time });
    byId("file").value = "";
  }

  async function makeDataset() {
    try {
      const made = await ask("export", { method: "POST", body: "{}" });
      say(`${made.train} cases to train, ${made.val} to validate: ${made.folder}`);
    } catch (error) {
      say(error.message, true);
    }
  }

  // --- keys ---------------------------------------------------------------------------------------------------------

  const actions = {
    j: () => step(1),
    k: () => step(-1),
    a: () => byId("accept").disabled || decide("accepted"),
    r: () => byId("reason").focus(),
    u: () => byId("upload").click(),
    "/": () => byId("name").focus(),
  };

  function pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.repeat && !["j", "k"].includes(event.key)) return; // a held key decides once
    if (event.target.matches("input, select")) {
      if (event.key === "Escape") event.target.blur();
      if (event.key === "Enter" && event.target.id === "reason") reject();
      if (event.key === "Enter") event.preventDefault();
      return;
    }
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  }

  function connect() {
    document.addEventListener("keydown", pressed);
    window.addEventListener("message", (event) => { // the page of the case, in its frame, passes keys on
      const known = event.source === byId("page").contentWindow && event.data && actions[event.data.key];
      if (!known || !navigator.userActivation.isActive) return; // a page cannot press keys by itself
      if (event.data.key === "r" || event.data.key === "/") window.focus();
      actions[event.data.key]();
    });
    byId("filters").addEventListener("input", list);
    byId("filters").addEventListener("change", list);
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    document.querySelector("#cases tbody").addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row) show(row.dataset.id);
    });
    for (const button of document.querySelectorAll("[data-sort]")) {
      button.addEventListener("click", () => {
        state.down = state.sort === button.dataset.sort ? !state.down : button.dataset.sort !== "name";
        state.sort = button.dataset.sort;
        list();
      });
    }
    byId("accept").addEventListener("click", () => decide("accepted"));
    byId("reject").addEventListener("click", reject);
    byId("reopen").addEventListener("click", () => decide("open"));
    byId("upload").addEventListener("click", () => byId("file").click());
    byId("file").addEventListener("change", (event) => upload(event.target.files[0]));
    if (byId("export")) byId("export").addEventListener("click", makeDataset);
  }

  async function begin() {
    connect();
    state.cases = await ask("cases.json");
    list();
    if (state.shown.length) show(state.shown[0].id);
    document.documentElement.dataset.ready = "review";
  }

  begin().catch((error) => say(error.message, true));
})();
