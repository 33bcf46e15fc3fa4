"use strict";
(() => {
  const EVERY = 1000; // milliseconds between two questions
  const SILENT = 4000; // without an answer, from which on that is said
  const SPAN = 900; // seconds that the axis shows at most
  const LEAST = 30; // and at least
  const ENDS = 50; // rows
  const EVENTS = 100;
  const LETTERS = { parked: "P", serving: "S", ending: "E", held: "H" };
  const STAGES = {
    waited: "a sandbox",
    first_step: "first step",
    executed: "exec",
    first_byte: "first byte",
    gone: "gone",
  };

  const at = (id) => document.getElementById(id);
  // Everything is made of text nodes: nothing that is told can be markup.
  const make = (tag, of = "", ...children) => {
    const element = document.createElement(tag);
    if (of) element.className = of;
    element.append(...children.map((child) => (child instanceof Node ? child : String(child))));
    return element;
  };
  const plural = (number, one) => `${number} ${one}${number === 1 ? "" : "s"}`;
  const fill = (id, ...children) => at(id).replaceChildren(...children);

  const seconds = (number) => {
    if (number < 60) return `${Math.max(0, Math.round(number))} s`;
    if (number < 3600) return `${Math.floor(number / 60)} min ${Math.floor(number % 60)} s`;
    return `${Math.floor(number / 3600)} h ${Math.floor((number % 3600) / 60)} min`;
  };
  const latency = (us) =>
    us < 1000 ? `${us.toFixed(0)} µs` : us < 1e6 ? `${(us / 1000).toFixed(1)} ms` : `${(us / 1e6).toFixed(2)} s`;
  const clock = (epoch) => new Date(epoch * 1000).toTimeString().slice(0, 8);
  const words = (cause) => cause.replaceAll("_", " ");
  const waited = (status) => {
    const signal = status & 0x7f;
    return signal ? `signal ${signal}` : `status ${status >> 8}`;
  };

  const row = (cells, tag = "td", numbers = []) =>
    make("tr", "", ...cells.map((cell, n) => make(tag, numbers.includes(n) ? "number" : "", cell)));
  const table = (id, heads, rows, numbers) =>
    fill(id, row(heads, "th", numbers), ...rows.map((one) => row(one, "td", numbers)));

  // ---- what is told ----

  let before = null;
  const rate = (told, key) => {
    if (!before || told.uptime <= before.uptime) return "";
    const each = (told[key] - before[key]) / (told.uptime - before.uptime);
    return each > 0 ? `${each < 10 ? each.toFixed(1) : each.toFixed(0)} a second` : "";
  };

  const counts = (told) => {
    const rows = [
      ["serving", told.live, `of ${told.places} places`],
      ["parked", told.parked, ""],
      ["queued", told.queued, ""],
      ["connections", told.accepted, rate(told, "accepted")],
      ["sandboxes", told.lives, rate(told, "lives")],
      ["rotations", told.rotations, ""],
      ["bytes not in the log", told.dropped, rate(told, "dropped")],
    ];
    const tiles = rows.map(([name, number, more]) =>
      make("div", "", make("dt", "", name), make("dd", "", number, make("small", "", more))),
    );
    fill("counts", ...tiles);
  };

  const generations = (told) => {
    const all = [
      ...told.gone.map((one) => ({ ...one, state: "gone", end: -one.ago, begin: -one.ago - one.age })),
      ...told.generations.map((one) => ({ ...one, end: 0, begin: -one.age })),
    ].filter((one) => one.end > -SPAN);
    all.sort((a, b) => a.number - b.number);
    const span = Math.min(SPAN, Math.max(LEAST, ...all.map((one) => -one.begin)));
    const bars = all.map((one) => {
      const bar = make("div", `bar ${one.state}`);
      const begin = Math.max(one.begin, -span);
      bar.style.left = `${(100 * (span + begin)) / span}%`;
      bar.style.width = `${(100 * (one.end - begin)) / span}%`;
      const label = `${one.number} ${one.state}, ${seconds(one.age)}, ${one.lives} lives`;
      const element = make("div", "generation", make("span", "", label), make("div", "track", bar));
      element.dataset.number = one.number;
      element.dataset.state = one.state;
      return element;
    });
    const axis = make("div", "axis", make("span", "", `${seconds(span)} ago`), make("span", "", "now"));
    fill("generations", ...bars, axis);
  };

  // What has changed since the last look, for who does not see the bars.
  const states = (told) =>
    new Map([
      ...told.gone.map((one) => [one.number, "is gone"]),
      ...told.generations.map((one) => [one.number, one.state === "current" ? "takes connections" : "drains"]),
    ]);
  const events = (told) => {
    if (!before) return;
    const then = states(before);
    for (const [number, state] of states(told)) {
      if (then.get(number) === state) continue;
      at("events").prepend(make("li", "", `${clock(told.time)} generation ${number} ${state}`));
    }
    while (at("events").childElementCount > EVENTS) at("events").lastChild.remove();
  };

  const places = (told) => {
    const blocks = told.generations.map((one) => {
      const of = (state) => one.places.filter((place) => place.state === state).length;
      const numbers = Object.keys(LETTERS).map((state) => `${of(state)} ${state}`);
      const same = told.generations.filter((other) => other.number === one.number).length;
      const which = same > 1 ? `${one.number}, shard ${one.shard}` : one.number;
      const title = `Generation ${which}: ${numbers.join(", ")}, ${one.size - one.places.length} empty`;
      const cells = one.places.map((place) => {
        const cell = make("li", `cell ${place.state}`, make("b", "", LETTERS[place.state], place.number));
        const client = place.client || "no client";
        const age = seconds(told.time - place.since);
        if (place.state === "serving" || place.state === "ending") cell.append(make("span", "theirs", client), ` ${age}`);
        cell.title = `place ${place.number}: ${place.state}, life ${place.life}`;
        return cell;
      });
      return make("div", "", make("h3", "", title), make("ul", "cells", ...cells));
    });
    fill("places", make("p", "soft", "S serving, P parked, E ending, H memory held"), ...blocks);
  };

  const causes = (id, told, head) => {
    const rows = Object.entries(told).map(([name, count]) => [words(name), count]);
    table(id, [head, "count"], rows, [1]);
    for (const one of [...at(id).rows].slice(1)) one.className = one.cells[1].textContent === "0" ? "zero" : "";
  };

  const latencies = (told) => {
    const rows = Object.entries(told).map(([stage, one]) => [
      STAGES[stage] || words(stage),
      one.count,
      ...["mean", "p50", "p90", "p99"].map((key) => (one.count ? latency(one[key]) : "")),
    ]);
    table("latencies", ["until", "count", "mean", "p50", "p90", "p99"], rows, [1, 2, 3, 4, 5]);
  };

  const last = (told) => {
    const of = (one) => one.ends.map((end) => ({ ...end, of: one.number }));
    const all = [...told.gone, ...told.generations].flatMap(of);
    all.sort((a, b) => b.end - a.end);
    const rows = all.slice(0, ENDS).map((one) => [
      clock(one.end),
      one.of,
      one.life || "",
      words(one.cause),
      one.life ? waited(one.status) : "",
      make("span", "theirs", one.client),
      one.place < 0 ? "" : one.place,
      latency((one.end - one.begin) * 1e6),
    ]);
    table("last", ["at", "generation", "life", "cause", "", "client", "place", "lived"], rows, [1, 2, 6, 7]);
  };

  const show = (told) => {
    document.title = `${told.name}: ${told.live} serving`;
    const state = told.stopping ? "stopping; " : "";
    const number = plural(told.generations.length, "generation");
    fill("about", `${state}${told.listening.join(", ")}; up ${seconds(told.uptime)}; ${number}`);
    counts(told);
    generations(told);
    events(told);
    places(told);
    causes("ends", told.ends, "cause");
    causes("refused", told.refused, "reason");
    causes("alarms", told.alarms, "kind");
    at("of-alarms").hidden = !Object.keys(told.alarms).length;
    latencies(told.latencies);
    last(told);
    before = told;
  };

  // ---- asking ----

  let answered = Date.now();
  const ask = async () => {
    try {
      const answer = await fetch("status.json", { cache: "no-store" });
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      show(await answer.json());
      answered = Date.now();
    } catch (error) {
      console.warn(error);
    }
    setTimeout(ask, EVERY);
  };
  setInterval(() => {
    const silence = Date.now() - answered;
    at("silent").hidden = silence < SILENT;
    at("silent").textContent = `no answer for ${seconds(silence / 1000)}: what is below is old`;
  }, EVERY);
  ask();
})();
