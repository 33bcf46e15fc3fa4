"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { namespaces, groups, processes, kinds } = data;
  const DENSE = 60; // groups from which on a card is one line
  const FOUND = 200; // rows of a list
  const kindNames = kinds.map((kind) => kind.name);

  // Everything is made of text nodes: nothing that a process is called can be markup.
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "click") element.addEventListener("click", value);
      else if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
    return element;
  };
  const plural = (number, one, many) => `${number} ${number === 1 ? one : many || one + "s"}`;

  // ---- how things hang together ----

  const nameOf = (kind, inode) => `${kind}:[${inode}]`;
  const groupOf = new Map(); // pid to its group
  const sharers = new Map(); // name of a namespace to the groups in it
  groups.forEach((group, number) => {
    group.number = number;
    group.base = number === 0;
    group.user = nameOf("user", group.namespaces.user);
    for (const pid of group.pids) groupOf.set(pid, group);
    for (const kind of kindNames) {
      const name = nameOf(kind, group.namespaces[kind]);
      if (!sharers.has(name)) sharers.set(name, []);
      sharers.get(name).push(group);
    }
  });
  const children = new Map(); // pid to those whose parent it is
  for (const [pid, process] of Object.entries(processes)) {
    process.pid = Number(pid);
    if (!children.has(process.ppid)) children.set(process.ppid, []);
    children.get(process.ppid).push(process);
  }
  const childrenOf = new Map(); // name of a namespace to how many have it as their parent
  for (const { parent } of Object.values(namespaces)) childrenOf.set(parent, (childrenOf.get(parent) || 0) + 1);
  const spaces = new Map(); // name of a user namespace to what is in it
  for (const [name, ns] of Object.entries(namespaces)) {
    ns.name = name;
    if (ns.type === "user") spaces.set(name, { ns, groups: [], empty: [], below: [], owned: {} });
  }
  const lost = { ns: null, groups: [], empty: [], below: [], owned: {} }; // whose owner is not known
  for (const ns of Object.values(namespaces)) {
    const space = ns.type === "user" ? spaces.get(ns.parent) : spaces.get(ns.owner) || lost;
    if (ns.type === "user") {
      if (space) space.below.push(ns.name);
      continue;
    }
    space.owned[ns.type] = (space.owned[ns.type] || 0) + 1;
    if (!ns.members) space.empty.push(ns);
  }
  for (const group of groups) (spaces.get(group.user) || lost).groups.push(group);

  // ---- cards ----

  const chips = (group) =>
    make(
      "span",
      { class: "chips" },
      group.own.length
        ? kindNames.map((kind) => {
            if (!group.own.includes(kind)) return make("span", { class: "chip none", title: `${kind}: the host's` });
            const name = nameOf(kind, group.namespaces[kind]);
            const others = sharers.get(name).length - 1;
            const title = others ? `${name}, with ${plural(others, "other group")}` : name;
            return make("span", { class: `chip hue-${kind} ${others ? "shared" : "own"}`, title }, kind);
          })
        : make("span", { class: "note" }, "the namespaces that the others are compared with"),
    );

  const groupName = (group) => (group.base && !group.maker ? "host" : group.name);
  const commandOf = (process) => process.command || `[${process.comm}]`;

  const groupCard = (group) => {
    const command = commandOf(processes[group.oldest]);
    const number = group.pids.length;
    return make(
      "button",
      { class: group.base ? "card base" : "card", type: "button", title: command, click: () => go(`g${group.number}`) },
      make(
        "span",
        { class: "top" },
        make("span", { class: "name theirs" }, groupName(group)),
        group.maker && make("span", { class: "badge" }, group.maker),
        make(
          "span",
          { class: "number", title: plural(number, "process", "processes") },
          group.base ? plural(number, "process", "processes") : number,
        ),
      ),
      make("span", { class: "what mono theirs" }, command),
      chips(group),
    );
  };

  const keptBy = (ns) => {
    const owned = Object.values((spaces.get(ns.name) || { owned: {} }).owned).reduce((sum, number) => sum + number, 0);
    const below = childrenOf.get(ns.name) || 0;
    return [...ns.pins, owned && `owns ${plural(owned, "namespace")}`, below && plural(below, "child namespace")]
      .filter(Boolean)
      .join(", ");
  };

  const emptyCard = (ns) =>
    make(
      "button",
      { class: "card empty", type: "button", title: keptBy(ns), click: () => go(ns.name) },
      make(
        "span",
        { class: "top" },
        make("span", { class: "name mono" }, ns.name),
        make("span", { class: `chip own hue-${ns.type}` }, "no process"),
      ),
      make("span", { class: "what theirs" }, keptBy(ns)),
    );

  // ---- the tree ----

  const tree = document.getElementById("tree");
  const cards = []; // {element, group or ns, text}
  const sections = []; // {element, parts}: hidden when all their parts are

  const words = (...parts) => parts.flat().join(" ").toLowerCase();
  for (const process of Object.values(processes)) {
    process.text = words(
      process.pid,
      process.comm,
      process.command,
      process.user,
      process.cgroups.map(([path]) => path),
      process.pids,
    );
  }
  const groupText = (group) =>
    words(
      groupName(group),
      group.maker,
      Object.entries(group.namespaces).map(([kind, inode]) => nameOf(kind, inode)),
    );

  const addCard = (element, subject, text) => {
    const card = { element, text, hidden: false, ...subject };
    cards.push(card);
    return card;
  };

  const isSimple = (space) =>
    space.ns && space.groups.length === 1 && !space.below.length && !space.empty.length && !space.groups[0].base;
  const isBare = (space) => space.ns && !space.groups.length && !space.below.length && !space.empty.length;

  const mapText = (lines) =>
    lines
      ? lines.map(([inside, outside, count]) => `${inside} → ${outside}${count > 1 ? ` × ${count}` : ""}`).join(", ")
      : "";

  const draw = (space, first) => {
    const parts = [];
    const grid = make("div", { class: "cards" });
    const put = (card) => {
      grid.append(card.element);
      parts.push(card);
    };
    const putGroup = (group) => put(addCard(groupCard(group), { group }, groupText(group)));
    const putEmpty = (ns) => put(addCard(emptyCard(ns), { ns }, words(ns.name, ns.pins)));
    const deep = [];
    space.groups.forEach(putGroup);
    for (const name of space.below) {
      const inner = spaces.get(name);
      if (isSimple(inner)) putGroup(inner.groups[0]);
      else if (isBare(inner)) putEmpty(inner.ns);
      else deep.push(inner);
    }
    space.empty.forEach(putEmpty);
    const section = make("section", { class: "space" });
    const body = make("div", {}, grid);
    const fold = make("button", { class: "fold", type: "button", "aria-expanded": "true", "aria-label": "Fold" }, "▾");
    fold.addEventListener("click", () => {
      body.hidden = !body.hidden;
      fold.textContent = body.hidden ? "▸" : "▾";
      fold.setAttribute("aria-expanded", String(!body.hidden));
    });
    const owned = kindNames.filter((kind) => space.owned[kind]).map((kind) => `${space.owned[kind]} ${kind}`);
    section.append(
      space.ns
        ? make(
            "h2",
            {},
            fold,
            make("button", { type: "button", click: () => go(space.ns.name) }, space.ns.name),
            make(
              "small",
              { class: "theirs" },
              [
                first ? "the outermost user namespace seen" : `made by ${space.ns.owner_user || "somebody"}`,
                !first && space.ns.uid_map && `uids ${mapText(space.ns.uid_map) || "not mapped"}`,
                owned.length && `owns ${owned.join(", ")}`,
              ]
                .filter(Boolean)
                .join(" · "),
            ),
          )
        : make("h2", {}, fold, "Owner not known", make("small", {}, "their user namespace is not seen from here")),
      body,
    );
    for (const inner of deep) {
      const drawn = draw(inner, false);
      body.append(drawn.element);
      parts.push(drawn);
    }
    const drawn = { element: section, parts };
    sections.push(drawn); // after those inside
    return drawn;
  };

  const tops = [...spaces.values()].filter((space) => !spaces.has(space.ns.parent));
  tree.replaceChildren();
  for (const space of tops) tree.append(draw(space, true).element);
  if (lost.groups.length || lost.empty.length) tree.append(draw(lost, true).element);
  const nothing = make("p", { hidden: true }, "Nothing of that is here.");
  tree.append(nothing);
  if (cards.length > DENSE) tree.classList.add("dense");

  // ---- what is chosen ----

  const detail = document.getElementById("detail");
  const link = (id, text, extra = "") =>
    make("button", { class: `link ${extra}`.trim(), type: "button", click: () => go(id) }, text);
  const processRow = (process, depth = 0) => {
    const row = make(
      "button",
      { class: "row", type: "button", title: commandOf(process), click: () => go(`p${process.pid}`) },
      make("span", { class: "pid" }, process.pid),
      make("span", { class: "mono theirs" }, commandOf(process)),
    );
    row.style.paddingInlineStart = `${6 + 12 * Math.min(depth, 12)}px`;
    return make("li", {}, row);
  };
  const row = (id, name, note, theirs) =>
    make(
      "li",
      {},
      make(
        "button",
        { class: "row", type: "button", click: () => go(id) },
        make("span", { class: theirs ? "theirs" : "mono" }, name),
        make("span", { class: "soft" }, note),
      ),
    );
  const counted = (number) => (number ? plural(number, "process", "processes") : "no process");
  const groupRow = (group) => row(`g${group.number}`, groupName(group), counted(group.pids.length), true);
  const namespaceRow = (ns) => row(ns.name, ns.name, counted(ns.members), false);
  const list = (rows) =>
    make(
      "ul",
      {},
      rows.slice(0, FOUND),
      rows.length > FOUND && make("li", { class: "soft" }, `and ${rows.length - FOUND} more`),
    );
  const facts = (rows) =>
    make(
      "dl",
      {},
      rows.filter(Boolean).flatMap(([what, value]) => [make("dt", {}, what), make("dd", { class: "theirs" }, value)]),
    );
  const host = groups[0];

  // A kind, the namespace of it, and how many others are in it.
  const namespaceRows = (inodes) =>
    kindNames
      .filter((kind) => inodes[kind] !== undefined)
      .map((kind) => {
        const name = nameOf(kind, inodes[kind]);
        const others = (sharers.get(name) || []).length - 1;
        const note =
          inodes[kind] === host.namespaces[kind]
            ? "the host's"
            : others > 0
              ? `in ${plural(others + 1, "group")}`
              : "its own";
        return [kind, [link(name, name, "mono"), make("span", { class: "soft" }, ` ${note}`)]];
      });

  const showGroup = (group) => {
    const inGroup = new Set(group.pids);
    const rows = [];
    const stack = group.pids
      .filter((pid) => !inGroup.has(processes[pid].ppid))
      .reverse()
      .map((pid) => [processes[pid], 0]);
    while (stack.length) {
      const [process, depth] = stack.pop();
      rows.push(processRow(process, depth));
      const below = (children.get(process.pid) || []).filter((child) => inGroup.has(child.pid));
      for (const child of below.reverse()) stack.push([child, depth + 1]);
    }
    const mounts = (namespaces[nameOf("mnt", group.namespaces.mnt)] || {}).mounts;
    return [
      make("h2", { class: "theirs" }, groupName(group)),
      make(
        "p",
        { class: "soft" },
        [group.maker, plural(group.pids.length, "process", "processes"), mounts && plural(mounts, "mount")]
          .filter(Boolean)
          .join(" · "),
      ),
      make("h3", {}, "Namespaces"),
      facts(namespaceRows(group.namespaces)),
      make("h3", {}, "Processes"),
      list(rows),
    ];
  };

  const showIds = (numbers) => {
    const text = ([outside, inside]) =>
      inside === null
        ? `${outside} (not mapped)`
        : inside === undefined || inside === outside // no map was read
          ? `${outside}`
          : `${inside} (outside ${outside})`;
    const each = numbers.map(text);
    return new Set(each).size === 1
      ? each[0]
      : ["real", "effective", "saved", "filesystem"].map((what, n) => `${what} ${each[n]}`).join(", ");
  };
  const ago = (seconds) => {
    for (const [size, word] of [
      [86400, "day"],
      [3600, "hour"],
      [60, "minute"],
    ]) {
      if (seconds >= size) return plural(Math.floor(seconds / size), word);
    }
    return plural(Math.max(0, seconds), "second");
  };

  const showProcess = (process) => {
    const group = groupOf.get(process.pid);
    const parents = [];
    for (let up = processes[process.ppid]; up && parents.length < 100; up = processes[up.ppid]) parents.unshift(up);
    const user = namespaces[nameOf("user", process.namespaces.user)] || {};
    const mnt = namespaces[nameOf("mnt", process.namespaces.mnt)] || {};
    const below = children.get(process.pid) || [];
    return [
      make("h2", { class: "theirs" }, process.comm),
      make(
        "p",
        { class: "soft" },
        `process ${process.pid} in `,
        group ? link(`g${group.number}`, groupName(group)) : "no group: a zombie",
      ),
      make("div", { class: "command theirs" }, process.command || "no command line"),
      facts([
        ["pid", process.pids.length > 1 ? `${process.pids.join(" → ")}, from the outside in` : process.pid],
        ["state", `${process.state}, ${plural(process.threads, "thread")}`],
        ["started", `${ago(data.epoch - process.started)} before`],
        ["uid", showIds(process.uids)],
        ["gid", showIds(process.gids)],
        ["groups", process.groups.join(" ") || "none"],
        ["uid map", user.uid_map ? mapText(user.uid_map) || "none" : "unknown"],
        ["gid map", user.gid_map ? mapText(user.gid_map) || "none" : "unknown"],
      ]),
      make("h3", {}, "Rights"),
      facts([
        ...Object.entries(process.capabilities),
        ["no_new_privs", process.no_new_privs ? "yes" : "no"],
        ["seccomp", process.seccomp],
      ]),
      make("h3", {}, "Namespaces"),
      facts([
        ...namespaceRows(process.namespaces),
        ...Object.entries(process.elsewhere).map(([tid, names]) => [
          `thread ${tid}`,
          names.map((name) => link(name, name, "mono")),
        ]),
      ]),
      make("h3", {}, "Place"),
      facts([
        process.root && ["root", make("span", { class: "mono" }, process.root)],
        mnt.mounts && ["mounts", mnt.mounts],
        [
          "cgroups",
          process.cgroups.map(([path, names]) =>
            make("div", {}, make("span", { class: "mono" }, path), make("span", { class: "soft" }, ` ${names}`)),
          ),
        ],
      ]),
      make("h3", {}, "Parents"),
      parents.length
        ? make(
            "div",
            { class: "path" },
            parents.flatMap((up) => [link(`p${up.pid}`, `${up.comm} ${up.pid}`, "theirs"), "›"]),
            `${process.comm} ${process.pid}`,
          )
        : make("p", { class: "soft" }, "none is seen"),
      below.length > 0 && make("h3", {}, plural(below.length, "child", "children")),
      below.length > 0 && list(below.map((child) => processRow(child))),
    ];
  };

  const showNamespace = (ns) => {
    const inside = sharers.get(ns.name) || [];
    const owned = Object.values(namespaces).filter((other) => other.owner === ns.name && other.type !== "user");
    const below = Object.values(namespaces).filter((other) => other.parent === ns.name);
    return [
      make("h2", { class: "mono" }, ns.name),
      make("p", { class: "soft" }, kinds.find((kind) => kind.name === ns.type).isolates),
      facts([
        ["processes", ns.members || "none"],
        ns.id !== null && ["id", ns.id],
        ns.type !== "user" && ["owner", ns.owner ? link(ns.owner, ns.owner, "mono") : ns.unread.owner || "unknown"],
        [
          "made by",
          ns.owner_user
            ? ns.type === "user"
              ? ns.owner_user
              : `${ns.owner_user}, who made its owner`
            : ns.unread.owner_uid || "unknown",
        ],
        (ns.type === "user" || ns.type === "pid") && [
          "parent",
          ns.parent ? link(ns.parent, ns.parent, "mono") : ns.unread.parent || "none: the first",
        ],
        ns.type === "user" && ["uid map", ns.uid_map ? mapText(ns.uid_map) || "none" : "unknown: no process to ask"],
        ns.type === "user" && ["gid map", ns.gid_map ? mapText(ns.gid_map) || "none" : "unknown: no process to ask"],
        ns.type === "mnt" && ["mounts", ns.mounts === null ? "unknown" : ns.mounts],
      ]),
      ns.pins.length > 0 && make("h3", {}, ns.members ? "Kept also by" : "Kept by"),
      ns.pins.length > 0 &&
        make(
          "ul",
          {},
          ns.pins.map((pin) => make("li", { class: "mono theirs" }, pin)),
        ),
      inside.length > 0 && make("h3", {}, plural(inside.length, "group")),
      inside.length > 0 && list(inside.map(groupRow)),
      below.length > 0 && make("h3", {}, plural(below.length, "child namespace")),
      below.length > 0 && list(below.map(namespaceRow)),
      owned.length > 0 && make("h3", {}, `Owns ${plural(owned.length, "namespace")}`),
      owned.length > 0 && list(owned.map(namespaceRow)),
    ];
  };

  const showFound = (hits) => {
    const named = cards.filter((card) => !card.element.hidden && card.group).map((card) => card.group);
    const spoken = Object.values(namespaces).filter((ns) => terms.every((term) => ns.name.includes(term)));
    return [
      make("h2", {}, `${plural(hits.length, "process", "processes")}, ${plural(named.length, "group")}`),
      hits.length > 0 && list(hits.map((process) => processRow(process))),
      !hits.length && named.length > 0 && list(named.map(groupRow)),
      !hits.length && !named.length && make("p", { class: "soft" }, "Nothing is like that."),
      spoken.length > 0 && make("h3", {}, plural(spoken.length, "namespace")),
      spoken.length > 0 && list(spoken.map(namespaceRow)),
    ];
  };

  const showHelp = () => [
    make("h2", {}, "What is shown"),
    make(
      "p",
      {},
      "Processes that are in the same namespaces are one card: a container, a service, the host itself. Cards stand in the user namespace that their processes are in, or that they alone are in.",
    ),
    make(
      "p",
      {},
      make("span", { class: "chip own hue-net" }, "net"),
      " a network namespace of its own; what is not named is the host's",
    ),
    make(
      "p",
      {},
      make("span", { class: "chip shared hue-net" }, "net"),
      " one that it shares with other cards, not with the host",
    ),
    make("p", {}, "Dashed cards are namespaces without a process, with what keeps them."),
    make("p", { class: "soft" }, "Choose a card, a process, a namespace; or search."),
  ];

  let current = "";
  let hits = null; // processes that are searched for
  let terms = [];
  const show = () => {
    const id = current;
    let parts;
    if (/^p\d+$/.test(id) && processes[id.slice(1)]) parts = showProcess(processes[id.slice(1)]);
    else if (/^g\d+$/.test(id) && groups[id.slice(1)]) parts = showGroup(groups[id.slice(1)]);
    else if (Object.hasOwn(namespaces, id)) parts = showNamespace(namespaces[id]);
    else parts = hits ? showFound(hits) : showHelp();
    detail.replaceChildren(...parts.filter(Boolean));
    detail.scrollTop = 0;
    const group = /^p/.test(id) ? groupOf.get(Number(id.slice(1))) : /^g/.test(id) ? groups[id.slice(1)] : null;
    for (const card of cards) {
      const chosen = card.group ? card.group === group : card.ns.name === id;
      if (chosen) card.element.setAttribute("aria-current", "true");
      else card.element.removeAttribute("aria-current");
    }
  };
  const go = (id) => {
    location.hash = encodeURIComponent(id);
  };
  const follow = () => {
    try {
      current = decodeURIComponent(location.hash.slice(1));
    } catch {
      current = ""; // written by hand, and wrong
    }
    show();
  };
  addEventListener("hashchange", follow);

  // ---- search, and the types that are asked for ----

  const search = document.getElementById("search");
  const wanted = new Set();
  let onlyEmpty = false;

  const filter = () => {
    terms = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const meets = (text) => terms.every((term) => text.includes(term));
    const found = terms.length ? Object.values(processes).filter((process) => meets(process.text)) : null;
    const inFound = new Set((found || []).map((process) => groupOf.get(process.pid)));
    for (const card of cards) {
      const typed = card.group
        ? !onlyEmpty && [...wanted].every((kind) => card.group.own.includes(kind))
        : !wanted.size || wanted.has(card.ns.type);
      const named = !terms.length || meets(card.text) || (card.group && inFound.has(card.group));
      card.element.hidden = !(typed && named);
    }
    for (const section of sections) section.element.hidden = section.parts.every((part) => part.element.hidden);
    nothing.hidden = cards.some((card) => !card.element.hidden);
    hits =
      found &&
      found.filter(
        (process) => !wanted.size || [...wanted].every((kind) => (groupOf.get(process.pid) || host).own.includes(kind)),
      );
    if (terms.length && current) history.replaceState(null, "", "#");
    if (terms.length) current = "";
    if (terms.length || !current) show();
  };
  let timer = 0;
  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(filter, 80);
  });
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && hits && hits.length) go(`p${hits[0].pid}`);
    if (event.key === "Escape") {
      search.value = "";
      filter();
    }
  });
  addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== search) {
      event.preventDefault();
      search.focus();
    }
  });

  const legend = document.getElementById("legend");
  legend.append(make("span", {}, "Only with their own"));
  const toggle = (inner, change) => {
    const button = make("button", { type: "button", "aria-pressed": "false" }, inner);
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", String(change()));
      filter();
    });
    legend.append(button);
  };
  for (const kind of kindNames) {
    const number = Object.values(namespaces).filter((ns) => ns.type === kind).length;
    if (!number) continue;
    toggle([make("span", { class: `dot hue-${kind}` }), kind, make("b", {}, number)], () => {
      if (!wanted.delete(kind)) wanted.add(kind);
      return wanted.has(kind);
    });
  }
  const empties = cards.filter((card) => card.ns).length;
  if (empties) {
    toggle(["no process", make("b", {}, empties)], () => {
      onlyEmpty = !onlyEmpty;
      return onlyEmpty;
    });
  }

  follow();
})();
