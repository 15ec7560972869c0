/* Figures that move, and the audit in the page: no library, no network, nothing leaves the reader's machine.

   A page holds <div class="relif-live" data-live="NAME"> with its data as JSON in a script element inside. Without
   JavaScript the static figure or table beside it stands alone; paper shows where the reader left it. */
(() => {
  "use strict";

  /* ---- numbers ---- */

  const sum = (values) => values.reduce((total, value) => total + value, 0);
  const range = (count, from = 0, to = count - 1) =>
    Array.from({ length: count }, (_, k) => (count > 1 ? from + ((to - from) * k) / (count - 1) : from));
  const shown = (value, digits = 3) =>
    Number.isFinite(value) ? value.toFixed(digits).replace(/^-(?=[0.]*$)/, "").replace("-", "−") : "–";
  const escaped = (text) =>
    String(text).replace(/[&<>"]/g, (sign) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[sign]);

  /* ln Γ for x > 0: Stirling's series from 15 on, the recurrence below. */
  const logGamma = (x) => {
    let shift = 0;
    for (; x < 15; x += 1) shift += Math.log(x);
    const square = x * x;
    const series =
      1 / (12 * x) -
      1 / (360 * x * square) +
      1 / (1260 * x * square ** 2) -
      1 / (1680 * x * square ** 3) +
      1 / (1188 * x * square ** 4) -
      691 / (360360 * x * square ** 5);
    return (x - 0.5) * Math.log(x) - x + 0.5 * Math.log(2 * Math.PI) + series - shift;
  };
  /* The regularised incomplete beta function I_x(a, b) by its continued fraction; rest is 1 − x. */
  const betaFraction = (a, b, x, rest) => {
    if (x === 0) return 0;
    const front = Math.exp(logGamma(a + b) - logGamma(a) - logGamma(b) + a * Math.log(x) + b * Math.log(rest));
    let c = 1;
    let d = 1 / (1 - ((a + b) * x) / (a + 1));
    let value = d;
    for (let m = 1; m < 500; m += 1) {
      const steps = [
        (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m)),
        (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1)),
      ];
      for (const step of steps) {
        d = 1 / (1 + step * d);
        c = 1 + step / c;
        value *= d * c;
      }
      if (Math.abs(d * c - 1) < 1e-15) break;
    }
    return (front * value) / a;
  };
  const bothTails = (t, freedom) => {
    const outer = freedom / (freedom + t * t);
    const inner = 1 / (1 + freedom / (t * t));
    const [a, b] = [freedom / 2, 0.5];
    return outer < (a + 1) / (a + b + 2) ? betaFraction(a, b, outer, inner) : 1 - betaFraction(b, a, inner, outer);
  };
  /* P(Z > z) for z ≥ 0: a series near 0, a continued fraction beyond. */
  const normalTail = (z) => {
    const x = (z * z) / 2;
    const front = Math.exp(-x);
    if (z < 3) {
      let [term, total] = [z, z];
      for (let k = 1; Math.abs(term) > 1e-18; k += 1) {
        term *= (z * z) / (2 * k + 1);
        total += term;
      }
      return 0.5 - (front * total) / Math.sqrt(2 * Math.PI);
    }
    let fraction = 0;
    for (let k = 120; k > 0; k -= 1) fraction = k / (z + fraction);
    return front / Math.sqrt(2 * Math.PI) / (z + fraction);
  };
  const bisected = (rises, low, high, turns = 200) => {
    for (let turn = 0; turn < turns && low < high; turn += 1) {
      const middle = (low + high) / 2;
      if (middle === low || middle === high) break;
      if (rises(middle)) low = middle;
      else high = middle;
    }
    return (low + high) / 2;
  };
  const studentQuantile = (probability, freedom) => {
    if (!(freedom > 0)) return NaN;
    const tail = 2 * (1 - probability);
    if (freedom < 1000) return Math.exp(bisected((middle) => bothTails(Math.exp(middle), freedom) > tail, -700, 700));
    const z = bisected((middle) => normalTail(middle) > tail / 2, 0, 40);
    const terms = [
      (z ** 3 + z) / 4,
      (5 * z ** 5 + 16 * z ** 3 + 3 * z) / 96,
      (3 * z ** 7 + 19 * z ** 5 + 17 * z ** 3 - 15 * z) / 384,
      (79 * z ** 9 + 776 * z ** 7 + 1482 * z ** 5 - 1920 * z ** 3 - 945 * z) / 92160,
    ];
    return z + sum(terms.map((term, k) => term / freedom ** (k + 1)));
  };

  /* ---- the exact audit ---- */

  const firstBeyond = (values, beyond) => {
    let [low, high] = [0, values.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (beyond(values[middle])) high = middle;
      else low = middle + 1;
    }
    return low;
  };
  /* A pool: its scores in ascending order, prefix sums, and the row of the table that each stands in. */
  const poolOf = (scores) => {
    const order = [...scores.keys()].filter((row) => scores[row] !== null).sort((a, b) => scores[a] - scores[b]);
    const values = order.map((row) => scores[row]);
    const prefix = [0];
    for (const value of values) prefix.push(prefix.at(-1) + value);
    return { rows: order, values, prefix };
  };
  /* Per score x of a pool: E_y[(|x − y| − δ)₊] and P_y(|x − y| > δ) against the other pool. */
  const termsOf = (own, other, delta) => {
    const count = other.values.length;
    const [excess, rate] = [[], []];
    for (const x of own.values) {
      const inside = firstBeyond(other.values, (y) => y - x > delta);
      const under = firstBeyond(other.values, (y) => !(x - y > delta));
      const above = count - inside;
      const mass =
        other.prefix[count] - other.prefix[inside] - above * (x + delta) + under * (x - delta) - other.prefix[under];
      excess.push(mass / count);
      rate.push((above + under) / count);
    }
    return [excess, rate];
  };
  const pairTerms = (first, second, delta) => {
    const terms = [termsOf(first, second, delta), termsOf(second, first, delta)];
    const kinds = [0, 1].map((kind) => ({
      first: terms[0][kind],
      second: terms[1][kind],
      mean: sum(terms[0][kind]) / first.values.length,
    }));
    if (kinds[1].mean === 0) kinds[0].mean = 0;
    kinds[0].mean = Math.max(0, kinds[0].mean);
    return kinds;
  };
  const pairsOf = (names) => names.flatMap((first, k) => names.slice(k + 1).map((second) => [first, second]));

  const combinedError = (summed, share, freedom) => {
    const present = [...share.keys()].filter((k) => share[k] > 0);
    const largest = Math.max(...present.map((k) => share[k]));
    if (present.length < 2 || largest >= 1) return [NaN, NaN];
    const factor = Math.sqrt((present.length - 1) / present.length);
    const square = present.map((k) => ((summed[k] * factor) / (1 - share[k])) ** 2);
    const variance = sum(square);
    const excess = sum(square.map((value) => value * value)) - variance ** 2 / present.length;
    return [Math.sqrt(variance), excess * freedom > 2 * variance ** 2 ? (2 * variance ** 2) / excess : freedom];
  };
  const unitInterval = (estimate, error, level, freedom, effectivePairs, widest) => {
    const quantile = studentQuantile((1 + level) / 2, freedom);
    if (Number.isNaN(error) || Number.isNaN(quantile)) return [NaN, NaN];
    if (error <= 1e-12 || !(estimate > 0 && estimate < 1)) {
      const unseen = -Math.expm1(Math.log1p(-level) / effectivePairs);
      const low = (1 - unseen) * estimate;
      return [low, Math.min(1, low + unseen * widest)];
    }
    const half = Math.min((quantile * error) / (estimate * (1 - estimate)), 700);
    const odds = estimate / (1 - estimate);
    const [low, high] = [odds * Math.exp(-half), Math.exp(-half) / odds];
    return [low / (1 + low), 1 / (1 + high)];
  };

  /* Audit columns {task: [score | null, ...]} at one tolerance; subjects: one id per row. Equals relif_core.audit.audit. */
  const audit = (columns, delta, subjects, level = 0.95) => {
    const names = Object.keys(columns);
    const pools = Object.fromEntries(names.map((name) => [name, poolOf(columns[name])]));
    const ids = [...new Set(subjects)];
    const number = new Map(ids.map((id, k) => [id, k]));
    const codes = Object.fromEntries(
      names.map((name) => [name, pools[name].rows.map((row) => number.get(subjects[row]))]),
    );
    const shares = {};
    const effective = {};
    for (const name of names) {
      const counts = new Array(ids.length).fill(0);
      for (const code of codes[name]) counts[code] += 1;
      const size = codes[name].length;
      shares[name] = counts.map((count) => count / size);
      effective[name] = size ** 2 / sum(counts.map((count) => count * count));
    }
    const pairs = pairsOf(names);
    const total = [new Array(ids.length).fill(0), new Array(ids.length).fill(0)];
    const spread = (summed, tasks) => {
      const share = ids.map((_, k) => Math.max(...tasks.map((task) => shares[task][k])));
      const freedom = Math.min(...tasks.map((task) => effective[task])) - 1;
      return summed.map((own) => combinedError(own, share, freedom));
    };
    const finished = (means, errors, tasks) => {
      const effectivePairs = Math.min(...tasks.map((task) => effective[task])) / 2;
      return {
        tasks,
        bias: means[0],
        violation_rate: means[1],
        bias_se: errors[0][0],
        violation_rate_se: errors[1][0],
        bias_interval: unitInterval(means[0], ...[errors[0][0], level, errors[0][1]], effectivePairs, Math.max(0, 1 - delta)),
        violation_rate_interval: unitInterval(means[1], errors[1][0], level, errors[1][1], effectivePairs, 1),
      };
    };
    const rows = pairs.map(([first, second]) => {
      const kinds = pairTerms(pools[first], pools[second], delta);
      const summed = kinds.map((kind, place) => {
        const own = new Array(ids.length).fill(0);
        [
          [first, kind.first],
          [second, kind.second],
        ].forEach(([task, means]) =>
          means.forEach((mean, k) => {
            own[codes[task][k]] += (mean - kind.mean) / means.length;
          }),
        );
        own.forEach((value, k) => {
          total[place][k] += value / pairs.length;
        });
        return own;
      });
      return finished(kinds.map((kind) => kind.mean), spread(summed, [first, second]), [first, second]);
    });
    const means = ["bias", "violation_rate"].map((kind) => sum(rows.map((row) => row[kind])) / rows.length);
    return { ...finished(means, spread(total, names), names), tolerance: delta, level, subjects: ids.length, per_pair: rows };
  };
  /* Exact Bias and violation rate at many tolerances. */
  const biasCurve = (columns, tolerances) => {
    const pools = Object.values(columns).map(poolOf);
    const pairs = pairsOf(pools);
    return tolerances.map((delta) => {
      const kinds = pairs.map(([first, second]) => pairTerms(first, second, delta));
      return [0, 1].map((kind) => sum(kinds.map((own) => own[kind].mean)) / pairs.length);
    });
  };

  /* ---- drawing ---- */

  const FRAME = { width: 560, height: 320, left: 62, right: 132, top: 14, bottom: 46 };
  const ticksOf = ([low, high]) => {
    const raw = (high - low) / 5;
    const unit = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((k) => k * unit).find((size) => size >= raw * 0.999);
    const ticks = [];
    for (let tick = Math.ceil(low / step - 1e-9) * step; tick <= high + step * 1e-9; tick += step) ticks.push(tick);
    return ticks.map((tick) => [tick, Number(tick.toPrecision(6)).toString().replace("-", "−")]);
  };
  /* An SVG of lines, points, bands and marks; axes follow the page's text colour. */
  const plot = ({ x, y, xLabel, yLabel, series = [], lines = [], bands = [] }) => {
    const { width, height, left, right, top, bottom } = FRAME;
    const place = (value, [low, high], from, to) => from + ((value - low) / (high - low || 1)) * (to - from);
    const px = (value) => Math.round(100 * place(value, x, left, width - right)) / 100;
    const py = (value) => Math.round(100 * place(value, y, height - bottom, top)) / 100;
    const inside = ([a, b]) => Number.isFinite(a) && Number.isFinite(b) && b >= y[0] - 1e-9 && b <= y[1] + 1e-9;
    const parts = [];
    for (const { from, to, label } of bands)
      parts.push(
        `<rect x="${px(Math.max(from, x[0]))}" y="${top}" width="${Math.max(0, px(Math.min(to, x[1])) - px(Math.max(from, x[0])))}" height="${height - top - bottom}" fill="currentColor" opacity="0.08"><title>${escaped(label || "")}</title></rect>`,
      );
    for (const [tick, text] of ticksOf(x))
      parts.push(
        `<path d="M${px(tick)} ${height - bottom}v5" stroke="currentColor"/><text x="${px(tick)}" y="${height - bottom + 18}" text-anchor="middle">${text}</text>`,
      );
    for (const [tick, text] of ticksOf(y))
      parts.push(
        `<path d="M${left} ${py(tick)}h-5" stroke="currentColor"/><text x="${left - 8}" y="${py(tick) + 4}" text-anchor="end">${text}</text>`,
      );
    parts.push(
      `<path d="M${left} ${top}V${height - bottom}H${width - right}" fill="none" stroke="currentColor"/>`,
      `<text x="${(left + width - right) / 2}" y="${height - 8}" text-anchor="middle">${escaped(xLabel)}</text>`,
      `<text transform="translate(15 ${(top + height - bottom) / 2}) rotate(-90)" text-anchor="middle">${escaped(yLabel)}</text>`,
    );
    for (const { at, label } of lines)
      parts.push(
        `<path d="M${px(at)} ${top}V${height - bottom}" stroke="currentColor" stroke-dasharray="4 3"/><text x="${px(at) + 4}" y="${top + 10}">${escaped(label || "")}</text>`,
      );
    const labels = [];
    for (const { points, colour = "currentColor", label, dots, dash } of series) {
      const seen = points.filter(inside);
      if (!seen.length) continue;
      if (dots)
        for (const [a, b] of seen)
          parts.push(`<circle cx="${px(a)}" cy="${py(b)}" r="6" fill="${colour}" stroke="currentColor" stroke-width="0.7"><title>${escaped(label || "")}</title></circle>`);
      else
        parts.push(
          `<path d="M${seen.map(([a, b]) => `${px(a)} ${py(b)}`).join("L")}" fill="none" stroke="${colour}" stroke-width="2"${dash ? ' stroke-dasharray="6 4"' : ""}/>`,
        );
      if (label) labels.push({ label, x: dots ? px(seen.at(-1)[0]) + 9 : width - right + 6, y: py(seen.at(-1)[1]), colour });
    }
    /* Labels give way to each other from the top down. */
    labels.sort((a, b) => a.y - b.y);
    labels.forEach((own, k) => {
      if (k) own.y = Math.max(own.y, labels[k - 1].y + 13);
    });
    const excess = labels.length ? Math.max(0, labels.at(-1).y - (height - bottom)) : 0;
    for (const own of labels)
      parts.push(`<text x="${own.x}" y="${own.y - excess + 4}" class="relif-live-label"><tspan fill="${own.colour}">●</tspan> ${escaped(own.label)}</text>`);
    return `<svg viewBox="0 0 ${width} ${height}" role="img" font-size="12" fill="currentColor">${parts.join("")}</svg>`;
  };
  const tableOf = (head, rows) =>
    `<div class="relif-live-scroll"><table><thead><tr>${head.map((name) => `<th scope="col">${escaped(name)}</th>`).join("")}</tr></thead><tbody>${rows
      .map((row) => `<tr>${row.map((cell) => `<td>${escaped(cell)}</td>`).join("")}</tr>`)
      .join("")}</tbody></table></div>`;
  const smallest = (values, count = 1) => [...values].sort((a, b) => a - b)[count - 1];

  /* ---- figures: name → { controls, show(values, data) → { svg, text, below } } ---- */

  const slider = (key, label, low, high, value, step = (high - low) / 200) => ({ key, label, low, high, value, step });
  const hinge = (z) => Math.max(0, z);
  const huberized = (z, mu) => (z <= 0 ? 0 : z <= mu ? (z * z) / (2 * mu) : z - mu / 2);
  const columnsOf = (pools) => pools;

  const FIGURES = {
    /* Methods under one ruler, or each under its own. data: tolerances, methods [{title, colour, worst, bias, violation_rate,
       own_tolerance, own_bias}], tolerance. */
    methods: {
      controls: (data) => [slider("delta", "Tolerance δ", 0, 1, data.tolerance, 0.005)],
      boxes: [{ key: "own", label: "Let each method bring its own ruler" }],
      show: ({ delta, own }, data) => {
        const at = (curve) => {
          const place = Math.min(Math.max((delta - data.tolerances[0]) / (data.tolerances[1] - data.tolerances[0]), 0), curve.length - 1);
          const k = Math.min(Math.floor(place), curve.length - 2);
          return curve[k] + (place - k) * (curve[k + 1] - curve[k]);
        };
        const found = data.methods.map((method) => ({
          ...method,
          now: own ? method.own_bias : at(method.bias),
          rate: own ? NaN : at(method.violation_rate),
        }));
        const order = [...found].sort((a, b) => a.now - b.now);
        const worsts = found.map((method) => method.worst);
        const pad = 0.1 * (Math.max(...worsts) - Math.min(...worsts)) + 0.002;
        const top = 1.15 * Math.max(...found.map((method) => method.now), 1e-4);
        const title = own ? "Bias, each at its own tolerance" : `Bias at δ = ${shown(delta)}`;
        const scatter = plot({
          x: [0, top],
          y: [Math.min(...worsts) - pad, Math.max(...worsts) + pad],
          xLabel: title,
          yLabel: "Worst",
          series: found.map((method) => ({ points: [[method.now, method.worst]], colour: method.colour, label: method.title, dots: true })),
        });
        const most = Math.max(...data.methods.map((method) => method.bias[0]));
        const curves = plot({
          x: [0, 1],
          y: [0, most],
          xLabel: "Tolerance δ",
          yLabel: "Bias",
          series: data.methods.map((method) => ({
            points: data.tolerances.map((value, k) => [value, method.bias[k]]),
            colour: method.colour,
          })),
          lines: own ? data.methods.map((method) => ({ at: method.own_tolerance, label: "" })) : [{ at: delta, label: `δ = ${shown(delta)}` }],
        });
        const rows = order.map((method, k) => [
          k + 1,
          method.title,
          shown(method.now, 4),
          own ? shown(method.own_tolerance) : shown(method.rate),
          shown(method.worst),
        ]);
        return {
          svg: `<div class="relif-live-pair">${scatter}${curves}</div>`,
          text: `${title}: lowest ${order[0].title} (${shown(order[0].now, 4)}), highest ${order.at(-1).title} (${shown(order.at(-1).now, 4)}).`,
          below: tableOf(["Rank", "Method", "Bias", own ? "Own δ" : "Violation rate", "Worst"], rows),
        };
      },
    },
    b2: {
      controls: () => [
        slider("a", "Bias of a at the fixed δ", 0, 0.2, 0.06),
        slider("b", "Bias of b at the fixed δ", 0, 0.2, 0.1),
        slider("da", "Drift budget of a", 0, 0.1, 0.01),
        slider("db", "Drift budget of b", 0, 0.1, 0.02),
      ],
      show: ({ a, b, da, db }) => {
        const [gap, budget] = [Math.abs(a - b), da + db];
        const bars = [
          [a, da, 2, "a"],
          [b, db, 1, "b"],
        ];
        return {
          svg: plot({
            x: [0, 0.3],
            y: [0.5, 2.5],
            xLabel: "Bias that the method's own tolerance can show",
            yLabel: "Method",
            series: bars.flatMap(([bias, drift, height, label]) => [
              { points: [[Math.max(0, bias - drift), height], [bias + drift, height]], colour: label === "a" ? "#0072B2" : "#D55E00" },
              { points: [[bias, height]], colour: label === "a" ? "#0072B2" : "#D55E00", dots: true, label },
            ]),
          }),
          text:
            gap > budget
              ? `Certified: the margin ${shown(gap)} exceeds the budgets' sum ${shown(budget)}, so no choice of own tolerances turns the order.`
              : `Not certified: the margin ${shown(gap)} is within the budgets' sum ${shown(budget)}; the order at own tolerances may differ.`,
        };
      },
    },
    b3: {
      controls: () => [slider("alpha", "Level α", 0.01, 0.5, 0.1, 0.01), slider("n", "Calibration pairs n", 5, 500, 50, 1)],
      show: ({ alpha, n }) => {
        const k = Math.ceil((n + 1) * (1 - alpha) - 1e-9);
        if (k > n)
          return {
            svg: plot({ x: [0, 1], y: [0, 1], xLabel: "Share of new distances beyond δ", yLabel: "Density", lines: [{ at: alpha, label: "α" }] }),
            text: `With n = ${n} pairs no distance is large enough for α = ${shown(alpha, 2)}: δ is 1 and nothing exceeds it. At least ${Math.ceil(1 / alpha - 1 - 1e-9)} pairs are needed.`,
          };
        /* The share beyond the k-th smallest of n uniform distances is Beta(n + 1 − k, k). */
        const [p, q] = [n + 1 - k, k];
        const log = logGamma(n + 1) - logGamma(p) - logGamma(q);
        const points = range(301, 0.0005, 0.9995).map((v) => [v, Math.exp(log + (p - 1) * Math.log(v) + (q - 1) * Math.log(1 - v))]);
        return {
          svg: plot({
            x: [0, Math.min(1, 4 * alpha + 4 / n)],
            y: [0, 1.1 * Math.max(...points.map(([, v]) => v))],
            xLabel: "Share of new distances beyond δ",
            yLabel: "Density over calibrations",
            series: [{ points, colour: "#0072B2" }],
            lines: [{ at: alpha, label: "α" }, { at: p / (n + 1), label: "" }],
          }),
          text: `δ is the ${k}th smallest of ${n} distances. A new one exceeds it with probability ${shown(p / (n + 1), 4)}, at most α = ${shown(alpha, 2)}; a single calibration may give more or less, as the curve shows.`,
        };
      },
    },
    b4: {
      controls: () => [slider("mu", "Width μ", 0.01, 1, 0.2, 0.01)],
      show: ({ mu }) => {
        const z = range(241, -0.6, 1.8);
        return {
          svg: plot({
            x: [-0.6, 1.8],
            y: [0, 1.8],
            xLabel: "Margin z",
            yLabel: "Penalty",
            series: [
              { points: z.map((v) => [v, hinge(v)]), colour: "#555", dash: true, label: "hinge" },
              { points: z.map((v) => [v, huberized(v, mu)]), colour: "#0072B2", label: "huberised" },
              { points: z.map((v) => [v, huberized(v, mu) + mu / 2]), colour: "#D55E00", dash: true, label: "+ μ/2" },
            ],
          }),
          text: `The huberised hinge lies below the hinge by at most μ/2 = ${shown(mu / 2)}, everywhere from z = μ = ${shown(mu, 2)} on.`,
        };
      },
    },
    b5: {
      controls: () => [
        slider("eta", "Step size η", 0.01, 2, 0.2, 0.01),
        slider("m", "Pull m", 0.05, 1, 0.5, 0.05),
        slider("L", "Steepness L", 0.05, 2, 1, 0.05),
        slider("sigma", "Noise σ", 0, 0.5, 0.1, 0.01),
      ],
      show: ({ eta, m, L, sigma }) => {
        const q = 1 - 2 * eta * m + eta * eta * L * L;
        const applies = L >= m && q >= 0 && q < 1 && eta < (2 * m) / (L * L);
        const [exact, bound] = [[], []];
        let error = 1;
        for (let t = 0; t <= 60; t += 1) {
          exact.push([t, error]);
          bound.push([t, q ** t + (eta * eta * sigma * sigma * (1 - q ** t)) / (1 - q)]);
          error = (1 - eta * m) ** 2 * error + eta * eta * sigma * sigma;
        }
        return {
          svg: plot({
            x: [0, 60],
            y: [0, 1.2],
            xLabel: "Update t",
            yLabel: "E (u − u*)²",
            series: [
              { points: exact, colour: "#0072B2", label: "linear response" },
              ...(applies ? [{ points: bound, colour: "#D55E00", dash: true, label: "bound" }] : []),
            ],
          }),
          text: applies
            ? `q = ${shown(q)}: the mean square error falls below ${shown((eta * sigma * sigma) / (2 * m - eta * L * L), 4)} in the end. The line is the exact error for the response −m(u − u*).`
            : L < m
              ? "No response has a pull m that exceeds its steepness L."
              : `The theorem is silent: η = ${shown(eta, 2)} is not below 2m/L² = ${shown((2 * m) / (L * L), 2)}, or q = ${shown(q)} is outside [0, 1).`,
        };
      },
    },
    /* data: p, other (scores of two calibrated binary tasks, p in ascending order). */
    t1: {
      controls: () => [slider("bins", "Bins of the coarsened prediction", 1, 40, 5, 1), slider("delta", "Tolerance δ", 0, 0.8, 0.1, 0.01)],
      show: ({ bins, delta }, data) => {
        const count = data.p.length;
        const coarse = data.p.map((_, k) => {
          const bin = Math.min(Math.floor((k * bins) / count), bins - 1);
          const [from, to] = [Math.ceil((bin * count) / bins), Math.ceil(((bin + 1) * count) / bins)];
          return sum(data.p.slice(from, to)) / (to - from);
        });
        const tolerances = range(41, 0, 0.8);
        const curveOf = (p) => biasCurve({ p, other: data.other }, tolerances).map(([bias], k) => [tolerances[k], bias]);
        const [fine, rough] = [curveOf(data.p), curveOf(coarse)];
        const at = (p) => biasCurve({ p, other: data.other }, [delta])[0][0];
        return {
          svg: plot({
            x: [0, 0.8],
            y: [0, 1.1 * fine[0][1]],
            xLabel: "Tolerance δ",
            yLabel: "Bias",
            series: [
              { points: fine, colour: "#0072B2", label: "all information" },
              { points: rough, colour: "#D55E00", label: `${bins} ${bins === 1 ? "bin" : "bins"}` },
            ],
            lines: [{ at: delta, label: "" }],
          }),
          text: `At δ = ${shown(delta, 2)} Bias is ${shown(at(data.p), 4)} with all information and ${shown(at(coarse), 4)} after coarsening into ${bins} ${bins === 1 ? "bin" : "bins"}: throwing information away never raises it.`,
        };
      },
    },
    /* data: pools {task: scores}, delta. */
    t2: {
      controls: (data) => [slider("epsilon", "Shrinkage ε", 0, 0.95, 0, 0.01), slider("delta", "Tolerance δ", 0, 1, data.delta, 0.01)],
      show: ({ epsilon, delta }, data) => {
        const columns = columnsOf(data.pools);
        const shrunk = Object.fromEntries(
          Object.entries(columns).map(([task, scores]) => [task, scores.map((score) => (1 - epsilon) * score + epsilon / 2)]),
        );
        const tolerances = range(51, 0, 1);
        const curveOf = (own) => biasCurve(own, tolerances).map(([bias], k) => [tolerances[k], bias]);
        const [before, after] = [biasCurve(columns, [delta])[0][0], biasCurve(shrunk, [delta])[0][0]];
        const whole = curveOf(columns);
        return {
          svg: plot({
            x: [0, 1],
            y: [0, 1.1 * whole[0][1]],
            xLabel: "Tolerance δ",
            yLabel: "Bias",
            series: [
              { points: whole, colour: "#0072B2", label: "as predicted" },
              { points: curveOf(shrunk), colour: "#D55E00", label: "shrunk" },
            ],
            lines: [{ at: delta, label: "" }],
          }),
          text: `Shrinking all scores towards ½ by ε = ${shown(epsilon, 2)} takes Bias at δ = ${shown(delta, 2)} from ${shown(before, 4)} to ${shown(after, 4)}, which is (1 − ε)·B(δ/(1 − ε)) = ${shown((1 - epsilon) * biasCurve(columns, [delta / (1 - epsilon)])[0][0], 4)}. No rank, AUROC or decision changes.`,
        };
      },
    },
    /* data: segmentation [scores], depth and normals [raw scores], quantiles {depth: [q10, q90], normals: [q10, q90]}, delta. */
    t5: {
      controls: () => [slider("depth", "Depth decoder: log₁₀ scale", -1.5, 1.5, 0, 0.02), slider("normals", "Normals decoder: log₁₀ scale", -1.5, 1.5, 0, 0.02)],
      show: (values, data) => {
        const scaled = (task) => {
          const [low, high] = data.quantiles[task];
          return data[task].map((raw) => Math.min(1, Math.max(0, (raw * 10 ** values[task] - low) / (high - low))));
        };
        const columns = { segmentation: data.segmentation, depth: scaled("depth"), normals: scaled("normals") };
        const [bias, rate] = biasCurve(columns, [data.delta])[0];
        const cumulative = (scores) => {
          const sorted = [...scores].sort((a, b) => a - b);
          return sorted.map((score, k) => [score, (k + 1) / sorted.length]);
        };
        const colours = { segmentation: "#0072B2", depth: "#D55E00", normals: "#009E73" };
        return {
          svg: plot({
            x: [0, 1],
            y: [0, 1],
            xLabel: "Audit score",
            yLabel: "Share of images up to it",
            series: Object.entries(columns).map(([task, scores]) => ({ points: [[0, 0], ...cumulative(scores), [1, 1]], colour: colours[task], label: task })),
          }),
          text: `Bias at δ = ${shown(data.delta)} is ${shown(bias, 4)}, the violation rate ${shown(rate)}. No predicted depth, normal or class has changed.`,
        };
      },
    },
  };

  let built = 0;
  const build = (host) => {
    const figure = FIGURES[host.dataset.live];
    const data = JSON.parse(host.querySelector("script").textContent);
    const controls = figure.controls(data);
    const boxes = figure.boxes || [];
    built += 1;
    const place = built; /* a page may hold one figure several times, and a label names its control by id */
    const id = (key) => `relif-live-${place}-${key}`;
    const panel = document.createElement("div");
    panel.className = "relif-live-panel";
    panel.innerHTML = `<div class="relif-live-controls">${controls
      .map(
        (item) =>
          `<label for="${id(item.key)}">${escaped(item.label)} <output>${shown(item.value)}</output></label><input type="range" id="${id(item.key)}" min="${item.low}" max="${item.high}" step="${item.step}" value="${item.value}">`,
      )
      .join("")}${boxes.map((item) => `<label><input type="checkbox" id="${id(item.key)}"> ${escaped(item.label)}</label>`).join("")}</div><div class="relif-live-figure"></div><p class="relif-live-text" role="status"></p><div class="relif-live-below"></div>`;
    host.append(panel);
    const input = (key) => panel.querySelector(`#${CSS.escape(id(key))}`);
    const starts = new Map(controls.map(({ key }) => [key, input(key).value])); /* what the steps make of a start */
    const update = () => {
      const values = {};
      for (const { key, value } of controls) {
        const own = input(key);
        values[key] = own.value === starts.get(key) ? value : Number(own.value);
        own.previousElementSibling.querySelector("output").textContent = shown(values[key], Number(own.step) >= 1 ? 0 : 3);
      }
      for (const { key } of boxes) values[key] = input(key).checked;
      if (boxes.length) input(controls[0].key).disabled = Boolean(values[boxes[0].key]);
      const { svg, text, below = "" } = figure.show(values, data);
      panel.querySelector(".relif-live-figure").innerHTML = svg;
      panel.querySelector(".relif-live-figure svg")?.setAttribute("aria-label", text);
      panel.querySelectorAll(".relif-live-figure svg").forEach((svgNode) => svgNode.setAttribute("aria-label", text));
      panel.querySelector(".relif-live-text").textContent = text;
      panel.querySelector(".relif-live-below").innerHTML = below;
    };
    panel.addEventListener("input", update);
    update();
    host.classList.add("relif-live-on");
  };

  /* ---- the audit in the page ---- */

  const MISSING = new Set(["", "na", "n/a", "#n/a", "<na>", "nan", "null", "none"]);
  const refuse = (text) => {
    throw new Error(text);
  };
  /* Read a table with a header: comma, semicolon or tab; quotes as in RFC 4180. */
  const parseTable = (text) => {
    const head = text.slice(0, text.search(/\r?\n|$/));
    const separator = [",", ";", "\t"].sort((a, b) => head.split(b).length - head.split(a).length)[0];
    const rows = [[""]];
    let quoted = false;
    const plain = text.replace(/^\uFEFF/, "");
    for (let k = 0; k < plain.length; k += 1) {
      const sign = plain[k];
      const row = rows.at(-1);
      if (quoted) {
        if (sign !== '"') row[row.length - 1] += sign;
        else if (plain[k + 1] === '"') {
          row[row.length - 1] += '"';
          k += 1;
        } else quoted = false;
      } else if (sign === '"' && row.at(-1).trim() === "") {
        row[row.length - 1] = "";
        quoted = true;
      } else if (sign === separator) row.push("");
      else if (sign === "\n") rows.push([""]);
      else if (sign !== "\r") row[row.length - 1] += sign;
    }
    const filled = rows.filter((row) => row.length > 1 || row[0].trim() !== "").map((row) => row.map((cell) => cell.trim()));
    if (filled.length < 2) refuse("The file needs a header line and at least one row.");
    const [names, ...body] = filled;
    const twice = names.find((name, k) => names.indexOf(name) !== k);
    if (twice !== undefined) refuse(`Two columns are called “${twice}”; rename one.`);
    const uneven = body.findIndex((row) => row.length !== names.length);
    if (uneven >= 0) refuse(`Row ${uneven + 2} has ${body[uneven].length} cells, the header ${names.length}.`);
    return { names, body };
  };
  /* A score: a number in [0, 1], or null where the cell says that there is none. */
  const scoreOf = (cell) => {
    if (MISSING.has(cell.toLowerCase())) return null;
    const value = /^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(cell) ? Number(cell) : NaN;
    return value >= 0 && value <= 1 ? value : undefined;
  };
  /* A column of scores has numbers in [0, 1] that are not all 0 or 1 (labels) and not one per row in order (an index). */
  const looksLikeScores = (values) => {
    const present = values.filter((value) => value !== null);
    return present.length > 0 && !present.includes(undefined) && present.some((value) => value !== 0 && value !== 1);
  };
  const EXAMPLE = () => {
    const rows = ["patient,mortality,long_stay"];
    let state = 7;
    const random = () => ((state = (state * 16807) % 2147483647) / 2147483647);
    for (let k = 0; k < 60; k += 1) rows.push(`p${k % 45},${(0.6 * random() ** 2).toFixed(3)},${(0.3 + 0.6 * random()).toFixed(3)}`);
    return rows.join("\n");
  };

  const buildAudit = (host) => {
    host.innerHTML = `<div class="relif-live-panel"><div class="relif-live-drop"><label for="relif-audit-file">Table of scores (CSV, TSV or ;): one row per sample, one column per task</label><input type="file" id="relif-audit-file" accept=".csv,.tsv,.txt"><button type="button" id="relif-audit-example">Use an example</button></div><div class="relif-live-controls" hidden><label for="relif-audit-delta">Tolerance δ</label><input type="number" id="relif-audit-delta" min="0" max="1" step="any" value="0.275"><label for="relif-audit-subject">Subject (who a row belongs to)</label><select id="relif-audit-subject"></select><fieldset><legend>Score columns</legend><span id="relif-audit-tasks"></span></fieldset></div><p class="relif-live-text" role="status"></p><div class="relif-live-figure"></div><div class="relif-live-below"></div><p id="relif-audit-save"></p></div>`;
    const find = (name) => host.querySelector(name);
    const status = find(".relif-live-text");
    let table = null;
    let source = "";
    const clear = (text) => {
      status.textContent = text;
      for (const name of [".relif-live-figure", ".relif-live-below", "#relif-audit-save"]) find(name).innerHTML = "";
    };
    const guarded = (work) => {
      try {
        work();
      } catch (error) {
        clear(error.message);
      }
    };
    const take = (text, name) =>
      guarded(() => {
        find(".relif-live-controls").hidden = true;
        table = parseTable(text);
        source = name;
        const scores = table.names.filter((_, k) => looksLikeScores(table.body.map((row) => scoreOf(row[k]))));
        if (scores.length < 2)
          refuse(`An audit compares at least two tasks; ${scores.length === 1 ? `only “${scores[0]}” holds` : "no column holds"} scores in [0, 1] that are more than labels.`);
        const subject = table.names.find((own) => !scores.includes(own) && /^(subject|patient|person|id|stay)/i.test(own));
        find("#relif-audit-subject").innerHTML = `<option value="">every row its own</option>${table.names
          .filter((own) => !scores.includes(own))
          .map((own) => `<option${own === subject ? " selected" : ""}>${escaped(own)}</option>`)
          .join("")}`;
        find("#relif-audit-tasks").innerHTML = scores
          .map((own, k) => `<label><input type="checkbox" checked value="${escaped(own)}" id="relif-audit-task-${k}"> ${escaped(own)}</label>`)
          .join(" ");
        find(".relif-live-controls").hidden = false;
        run();
      });
    const run = () =>
      guarded(() => {
        const delta = Number(find("#relif-audit-delta").value);
        if (!(find("#relif-audit-delta").value !== "" && delta >= 0 && delta <= 1)) refuse("The tolerance δ lies between 0 and 1.");
        const chosen = [...host.querySelectorAll("#relif-audit-tasks input:checked")].map((box) => box.value);
        if (chosen.length < 2) refuse("Choose at least two score columns.");
        const columns = Object.fromEntries(
          chosen.map((name) => [name, table.body.map((row) => scoreOf(row[table.names.indexOf(name)]))]),
        );
        const subject = find("#relif-audit-subject").value;
        const place = table.names.indexOf(subject);
        const subjects = table.body.map((row, k) => (subject ? row[place] : k));
        if (subject && subjects.some((id) => MISSING.has(id.toLowerCase()))) refuse(`Column “${subject}” has rows without an id.`);
        const result = audit(columns, delta, subjects);
        const between = ([low, high]) => `${shown(low, 4)} to ${shown(high, 4)}`;
        status.textContent = `Bias ${shown(result.bias, 4)} (95 % ${between(result.bias_interval)}), violation rate ${shown(result.violation_rate, 4)} (${between(result.violation_rate_interval)}) at δ = ${shown(delta)}; ${table.body.length} rows, ${result.subjects} ${subject ? "subjects" : "rows as subjects"}, columns ${chosen.join(", ")}.`;
        const tolerances = range(101, 0, 1);
        const curve = biasCurve(columns, tolerances);
        find(".relif-live-figure").innerHTML = plot({
          x: [0, 1],
          y: [0, 1],
          xLabel: "Tolerance δ",
          yLabel: "Bias, violation rate",
          series: [
            { points: curve.map(([bias], k) => [tolerances[k], bias]), colour: "#0072B2", label: "Bias" },
            { points: curve.map(([, rate], k) => [tolerances[k], rate]), colour: "#D55E00", label: "violation rate" },
          ],
          lines: [{ at: delta, label: "δ" }],
        });
        find(".relif-live-figure svg").setAttribute("aria-label", status.textContent);
        find(".relif-live-below").innerHTML = tableOf(
          ["Task pair", "Bias", "95 % interval", "Violation rate", "95 % interval"],
          result.per_pair.map((row) => [
            row.tasks.join(" – "), shown(row.bias, 4), between(row.bias_interval), shown(row.violation_rate, 4), between(row.violation_rate_interval),
          ]),
        );
        const card = JSON.stringify({ source, protocol: "exact", ...result }, null, 1);
        find("#relif-audit-save").innerHTML = `<a download="audit_card.json" href="data:application/json;charset=utf-8,${encodeURIComponent(card)}">Save the card (JSON)</a>`;
      });
    const read = (file) => {
      if (!file) return;
      if (!/\.(csv|tsv|txt)$/i.test(file.name)) return clear(`${file.name} is no CSV, TSV or text table.`);
      file.text().then((text) => take(text, file.name));
    };
    find("#relif-audit-file").addEventListener("change", (event) => read(event.target.files[0]));
    find("#relif-audit-example").addEventListener("click", () => take(EXAMPLE(), "example"));
    find(".relif-live-controls").addEventListener("input", run);
    host.addEventListener("dragover", (event) => event.preventDefault());
    host.addEventListener("drop", (event) => {
      event.preventDefault();
      read(event.dataTransfer.files[0]);
    });
    host.classList.add("relif-live-on");
  };

  document.addEventListener("DOMContentLoaded", () => {
    for (const host of document.querySelectorAll(".relif-live")) (host.dataset.live === "audit" ? buildAudit : build)(host);
  });
  /* For those who want the numbers alone, and for the tests. */
  window.relif = { audit, biasCurve, parseTable, studentQuantile };
})();
