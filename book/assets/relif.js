/* Reading comfort without a network: tables that sort and fit, formulas that fit, definitions on hover, paper that loses nothing. */
(() => {
  const statics = new URL(".", document.currentScript.src || document.baseURI);
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];

  /* The number with which a cell begins: "−0.123 ± 0.004", "[−0.01, 0.02]", "1,234", "12 %", "2 of 3", "inf". A cell without
     one, such as the dash of a missing value, gives NaN. A comma is a thousands separator only between digits. */
  const numberIn = (text) => {
    const plain = text.trim().replace(/[−–](?=[\d.i])/g, "-").replace(/(\d),(?=\d{3}\b)/g, "$1");
    const match = plain.match(/^[[(<>≤≥]*\s*([-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|\.\d+|inf))/i);
    return match ? parseFloat(match[1].replace(/inf/i, "Infinity")) : NaN;
  };
  const isMissing = (text) => ["–", ""].includes(text.trim());
  const compareTexts = new Intl.Collator("en").compare;

  const makeSortable = (table) => {
    const body = table.tBodies[0];
    const headers = [...table.tHead.rows[0].cells];
    headers.forEach((header, column) => {
      if (!header.textContent.trim()) return;
      const text = (row) => row.cells[column].textContent;
      /* Numbers in every cell that is not missing make a column numeric; "undefined" and the like stand beside them. */
      const values = [...body.rows].map(text).filter((value) => !isMissing(value));
      const numbers = values.filter((value) => !Number.isNaN(numberIn(value))).length;
      const numeric = numbers > 0 && (header.classList.contains("relif-number") || numbers === values.length);
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = header.textContent;
      header.replaceChildren(button);
      button.addEventListener("click", () => {
        const direction = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        const absent = (row) => (numeric ? Number.isNaN(numberIn(text(row))) : isMissing(text(row)));
        const order = (a, b) => {
          /* What is missing comes last in both directions. */
          if (absent(a) || absent(b)) return absent(a) - absent(b);
          if (!numeric) return direction * compareTexts(text(a), text(b));
          const [first, second] = [numberIn(text(a)), numberIn(text(b))];
          return first === second ? 0 : direction * (first < second ? -1 : 1);
        };
        body.replaceChildren(...[...body.rows].sort(order));
        headers.forEach((other) => other.removeAttribute("aria-sort"));
        header.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
      });
    });
  };

  /* The free column at the right: the theme's list of contents folds away while something lies over it. */
  const column = () => document.querySelector(".bd-sidebar-secondary");
  const over = new Set();
  const folding = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) over[isIntersecting ? "add" : "delete"](target);
    column()?.classList.toggle("hide", over.size > 0);
  });
  const narrow = (box) => {
    box.classList.remove("relif-wide");
    box.style.width = "";
  };
  const scrolls = (box) =>
    box && box.tagName !== "ARTICLE" && (getComputedStyle(box).maxHeight !== "none" || scrolls(box.parentElement));
  /* The width up to the end of the free column, or 0 where there is none to take. */
  const room = (box) => {
    const end = Math.min(document.querySelector(".bd-content")?.getBoundingClientRect().right, document.documentElement.clientWidth);
    const own = box.getBoundingClientRect();
    const free = own.left >= 0 && end - own.right > 100 && !scrolls(box) && matchMedia("(min-width: 1200px)").matches;
    return free ? Math.floor(end - own.left - 24) : 0;
  };
  const widen = (boxes) => {
    const widths = boxes.map(room);
    boxes.forEach((box, place) => {
      if (!widths[place]) return;
      box.style.width = `${widths[place]}px`;
      box.classList.add("relif-wide");
      folding.observe(box);
    });
  };

  /* A table that is wider than its place takes the free column, then smaller type, then breaks its numbers, then one block per
     row. All are measured before any is changed: one layout of the page a step. */
  const STEPS = ["relif-tight", "relif-broken", "relif-stacked"];
  const fit = (boxes) => {
    const tables = new Map(boxes.map((box) => [box, box.querySelector("table")]));
    const tooWide = (box) => box.clientWidth > 0 && tables.get(box).offsetWidth > box.clientWidth + 1;
    for (const [box, table] of tables) {
      narrow(box);
      table.classList.remove(...STEPS);
    }
    let wide = boxes.filter(tooWide);
    widen(wide);
    for (const step of STEPS) {
      wide = wide.filter(tooWide);
      for (const box of wide) tables.get(box).classList.add(step);
    }
  };
  const boxes = [];
  const fitAll = () => {
    const figures = all('.relif-live[data-live="methods"]');
    figures.forEach(narrow);
    widen(figures);
    fit(boxes);
  };
  /* Once the layout has come to rest: while a sidebar slides in, left edges lie elsewhere. */
  let settling;
  const settle = () => {
    clearTimeout(settling);
    settling = setTimeout(fitAll, 150);
  };
  const widths = new Map();
  const watching = new ResizeObserver((entries) => {
    const changed = entries.filter(({ target }) => widths.get(target) !== target.clientWidth);
    for (const { target } of changed) widths.set(target, target.clientWidth);
    if (changed.length) settle();
  });
  const prepare = (box) => {
    const table = box.querySelector("table");
    const headers = [...(table.tHead?.rows[0]?.cells ?? [])].map((cell) => cell.textContent.trim());
    /* Rows laid out as blocks lose their meaning for assistive techniques unless it is said again. */
    table.setAttribute("role", "table");
    all("thead, tbody", table).forEach((part) => part.setAttribute("role", "rowgroup"));
    all("tr", table).forEach((row) => {
      row.setAttribute("role", "row");
      [...row.cells].forEach((cell, place) => {
        const heading = cell.tagName === "TH" && (cell.scope || (cell.closest("thead") ? "col" : "row"));
        cell.setAttribute("role", heading === "col" ? "columnheader" : heading ? "rowheader" : "cell");
        if (!cell.closest("thead") && headers[place]) cell.dataset.label = headers[place];
      });
    });
    if (window.relifPaper) return; /* print_book: the style sheet alone fits tables to paper */
    boxes.push(box);
    watching.observe(box.parentElement);
  };

  /* A displayed formula that is wider than the page breaks where its parts end, then is set smaller, down to three fifths;
     beyond that its own box scrolls. */
  const whole = new Map();
  const inLines = (tex) =>
    /&|\\\\/.test(tex) ? tex : tex.replace(/\\qquad|(?<=,)\s*\\quad/g, "\\\\").replace(/\\;\s*\\le\s*\\;/g, "\\\\ \\le ");
  const set = (formula, tex) => {
    formula.math = tex;
    formula.rerender(window.MathJax.startup.document, 20); /* from the TeX on */
  };
  const fitFormulas = (root = document) => {
    const formulas = [...(window.MathJax?.startup?.document?.math ?? [])].filter(
      (formula) => formula.display && root.contains(formula.typesetRoot),
    );
    /* All are measured before any is changed: one layout of the page a round. */
    const tooWide = (limit) =>
      formulas
        .map((formula) => [formula, formula.typesetRoot.clientWidth / formula.typesetRoot.scrollWidth])
        .filter(([, share]) => share < limit);
    for (const formula of formulas) {
      if (whole.has(formula)) set(formula, whole.get(formula));
      whole.delete(formula);
      formula.typesetRoot.style.fontSize = "";
    }
    for (const [formula] of tooWide(0.9)) {
      const lines = inLines(formula.math);
      if (lines === formula.math) continue;
      whole.set(formula, formula.math);
      set(formula, `\\begin{gathered}${lines}\\end{gathered}`);
    }
    for (const [formula, share] of tooWide(1))
      formula.typesetRoot.style.fontSize = `${Math.max(60, Math.floor(share * 98))}%`;
  };

  /* Definitions, references and statements where a link to them is pointed at or focused: hover.js holds them, made with the book. */
  const tip = document.createElement("div");
  tip.id = "relif-tip";
  tip.setAttribute("role", "tooltip");
  tip.hidden = true;
  let texts = null;
  const load = (name) =>
    new Promise((resolve) => {
      const script = document.createElement("script");
      script.src = new URL(name, statics);
      script.onload = script.onerror = resolve;
      document.head.append(script);
    });
  const keyOf = (link) => {
    const address = new URL(link.href);
    return decodeURIComponent(`${address.pathname.split("/").pop()}${address.hash}`);
  };
  let told = null;
  const placeTip = () => {
    const place = told.getClientRects()[0];
    const below = place.bottom + tip.offsetHeight + 8 < window.innerHeight;
    const most = document.documentElement.clientWidth - tip.offsetWidth - 8;
    tip.style.left = `${Math.max(8, Math.min(place.left, most))}px`;
    tip.style.top = `${below ? place.bottom + 4 : Math.max(8, place.top - tip.offsetHeight - 4)}px`;
  };
  const hideTip = () => {
    told = null;
    tip.hidden = true;
    all("[aria-describedby=relif-tip]").forEach((link) => link.removeAttribute("aria-describedby"));
  };
  const showTip = async (link) => {
    texts ??= load("hover.js");
    await texts;
    const found = window.relifHover?.[keyOf(link)];
    if (!found || !(link.matches(":hover") || link === document.activeElement)) return;
    tip.innerHTML = found;
    tip.hidden = false;
    told = link;
    link.removeAttribute("title");
    link.setAttribute("aria-describedby", tip.id);
    if (tip.querySelector(".math")) {
      if (!window.MathJax) await load("mathjax/tex-chtml-full.js");
      await window.MathJax.startup?.promise;
      await window.MathJax.typesetPromise?.([tip]);
    }
    if (told === link) placeTip();
  };

  document.addEventListener("DOMContentLoaded", () => {
    all("table.relif-table").forEach(makeSortable);
    all(".relif-table-scroll, .pst-scrollable-table-container").forEach(prepare);
    all("table.dataframe").forEach((table) => prepare(table.parentElement));
    for (const command of all("dl.relif-provenance dd > code")) {
      const button = Object.assign(document.createElement("button"), { type: "button", className: "relif-copy", textContent: "Copy" });
      command.after(button);
      new window.ClipboardJS(button, { text: () => command.textContent }).on("success", () => (button.textContent = "Copied"));
    }
    /* Entries of a bibliography say what they are themselves; a list may hold list items only. */
    all(".citation-list[role=list]").forEach((list) => list.removeAttribute("role"));
    document.body.append(tip);
    for (const link of all("article a.reference.internal[href*='#']")) {
      for (const start of ["mouseenter", "focus"]) link.addEventListener(start, () => showTip(link));
      for (const end of ["mouseleave", "blur"]) link.addEventListener(end, hideTip);
    }
    document.addEventListener("keydown", (event) => event.key === "Escape" && hideTip());
    window.addEventListener("scroll", () => told && placeTip(), { passive: true });
    document.addEventListener(
      "toggle",
      ({ target }) => {
        if (!target.open) return;
        fit(boxes.filter((box) => target.contains(box)));
        fitFormulas(target);
      },
      true,
    );
    document.addEventListener("transitionend", ({ target }) => target.matches(".bd-sidebar-primary") && settle());
    window.addEventListener("resize", () => {
      fitFormulas();
      settle();
    });
    const article = document.querySelector(".bd-article");
    if (article) watching.observe(article);
    fitAll();
  });
  window.addEventListener("load", async () => {
    await window.MathJax?.startup?.promise;
    fitFormulas();
    fitAll();
  });

  /* Paper: everything unfolded, tables as tables. */
  let folded = [];
  window.addEventListener("beforeprint", () => {
    folded = all("details:not([open])");
    folded.forEach((details) => (details.open = true));
    all(".relif-stacked").forEach((table) => table.classList.remove("relif-stacked"));
  });
  window.addEventListener("afterprint", () => {
    folded.forEach((details) => (details.open = false));
    fitAll();
  });
})();
