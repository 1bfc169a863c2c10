"use strict";
const $all = (query, from = document) => [...from.querySelectorAll(query)];
const element = (tag, name, ...inside) => {
  const node = document.createElement(tag);
  if (name) node.className = name;
  node.append(...inside.filter(x => x !== null && x !== undefined && x !== ""));
  return node;
};
const short = (v, unit) => {
  if (v === null || v === undefined) return "none";
  if (unit === "%") return `${+(100 * v).toPrecision(3)}%`;
  const size = Math.abs(v);
  return size && (size < 1e-3 || size >= 1e7) ? v.toExponential(2) : (+v.toPrecision(4)).toLocaleString("en");
};

// Curves: the nearest step and its values, by pointer or by arrow keys; the curves of a section move together.
for (const section of $all("section")) {
  const charts = $all("svg[data-series]", section).map(svg => {
    const log = svg.dataset.log === "1", [left, right] = svg.dataset.box.split(",").map(Number);
    const series = JSON.parse(svg.dataset.series), scale = log ? Math.log2 : Number;
    const steps = [...new Set(series.flatMap(s => s[1].map(p => p[0])))].sort((a, b) => a - b);
    const first = scale(steps[0]), span = scale(steps[steps.length - 1]) - first;
    const out = svg.parentNode.querySelector("output"), cursor = svg.querySelector(".cursor");
    const nearest = (list, step) => list.reduce((a, b) => Math.abs(scale(b) - scale(step)) < Math.abs(scale(a) - scale(step)) ? b : a);
    return {
      svg, log, steps, at: null,
      stepAt(x) {
        const place = first + (x - left) / (right - left) * span;
        return log ? 2 ** place : place;
      },
      show(step) {
        const at = this.at = nearest(steps, step);
        const x = left + (span ? (scale(at) - first) / span : .5) * (right - left);
        cursor.setAttribute("x1", x); cursor.setAttribute("x2", x); cursor.setAttribute("visibility", "visible");
        const values = series.map(([name, points]) => {
          const near = points.reduce((a, b) => Math.abs(b[0] - at) < Math.abs(a[0] - at) ? b : a);
          return short(near[1], svg.dataset.unit);
        });
        out.textContent = `${log ? "k" : "step"} ${at}: ${values.join(" · ")}`;
      },
      hide() { this.at = null; cursor.setAttribute("visibility", "hidden"); out.textContent = out.dataset.rest; },
    };
  });
  const together = (chart, step) => { for (const c of charts) if (c.log === chart.log) c.show(step); };
  for (const chart of charts) {
    const { svg } = chart;
    svg.addEventListener("pointermove", event => {
      const box = svg.getBoundingClientRect();
      together(chart, chart.stepAt((event.clientX - box.left) * svg.viewBox.baseVal.width / box.width));
    });
    const end = () => charts.forEach(c => c.hide());
    svg.addEventListener("pointerleave", end);
    svg.addEventListener("blur", end);
    svg.addEventListener("keydown", event => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!move) return;
      event.preventDefault();
      const i = chart.at === null ? chart.steps.length - 1 : chart.steps.indexOf(chart.at) + move;
      together(chart, chart.steps[Math.min(Math.max(i, 0), chart.steps.length - 1)]);
    });
  }
  for (const box of $all("[data-switch]", section))
    box.addEventListener("change", () => section.classList.toggle(box.dataset.switch, box.checked));
  for (const box of $all("[data-switch]", section)) section.classList.toggle(box.dataset.switch, box.checked);
}

// Every text of a run reaches the page as a text node, never as markup.
const block = text => { const pre = element("pre", "", text); pre.tabIndex = 0; return pre; };
const question = (prompt, answer) => element("div", "prompt", element("pre", "", prompt),
  answer === null ? null : element("p", "dim", "gold answer ", element("b", "", answer)));
const words = { right: "✓ right", wrong: "✗ wrong", best: "★ best of its group", chosen: "✓ chosen", rejected: "✗ rejected" };
const labelled = (text, control, name) => element("label", name, text, control);
const options = (select, texts) => select.replaceChildren(...texts.map((text, i) => {
  const option = element("option", "", text);
  option.value = i;
  return option;
}));
const line = text => { const flat = text.replace(/\s+/g, " ").trim(); return flat.length > 70 ? flat.slice(0, 69) + "…" : flat; };
const select = (label, texts, act, name) => {
  const control = element("select");
  options(control, texts);
  control.addEventListener("change", act);
  return [control, labelled(label, control, name)];
};
const input = (label, type, act, name) => {
  const control = element("input");
  control.type = type;
  if (type === "number") control.step = "any";
  control.addEventListener("input", act);
  return [control, labelled(label, control, name)];
};
const mover = (text, label, act) => {
  const button = element("button", "", text);
  button.type = "button"; button.setAttribute("aria-label", label); button.addEventListener("click", act);
  return button;
};
const plural = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
const total = (list, count) => list.reduce((sum, x) => sum + count(x), 0);
const copies = c => c.count > 1 ? element("span", "copies", `× ${c.count}`) : null;

// An episode: what was said to the model, what it wrote (in colour where that is trained on), and its calls.
const ROLES = ["system", "user", "tool"], ENDED = ["completed", "tool_stopped"];
const said = (head, text, kind, ...more) => element("div", `said ${kind}`, element("p", "dim", head), text ? block(text) : null, ...more);
const call = k => element("div", `call${k.error === null ? "" : " failed"}`, element("code", "", `${k.name}(${k.arguments})`), " → ",
  element("code", "", k.error === null ? k.result : k.error));
const policy = turn => [`turn ${turn.place}`, turn.num_tokens === null ? "" : plural(turn.num_tokens, "token"),
  turn.reward === null ? "" : `step reward ${short(turn.reward)}`, turn.trained ? "" : "not trained on",
  turn.branch ? "history rewritten" : ""].filter(x => x).join(" · ");
const scrolled = node => { node.tabIndex = 0; return node; };
const dialogue = turns => scrolled(element("div", "turns", ...turns.flatMap((turn, i) => [
  i && turn.place > turns[i - 1].place + 1 ? element("p", "dim", `${turn.place - turns[i - 1].place - 1} turns left out`) : null,
  ...turn.messages.map(m => said(m.role, m.text, ROLES.includes(m.role) ? m.role : "other")),
  said(policy(turn), turn.text, turn.trained ? "policy trained" : "policy", ...turn.calls.map(call))])));
const wordsOf = c => !c.turns ? c.text : c.turns.flatMap(turn =>
  [...turn.messages.map(m => m.text), turn.text, ...turn.calls.flatMap(k => [k.name, k.arguments, k.result || "", k.error || ""])]).join("\n");
const colours = () => element("p", "dim colours", element("span", "said policy trained", "trained on"), element("span", "said policy", "not trained on"),
  ...ROLES.map(role => element("span", `said ${role}`, role)));

const card = (c, prompt) => {
  const head = element("header", "", c.mark ? element("span", "mark", words[c.mark]) : null, copies(c),
    c.reward === null && (c.mark === "chosen" || c.mark === "rejected") ? null : element("span", "", "reward ", element("b", "", short(c.reward))),
    c.advantage === null ? null : element("span", "", `advantage ${c.advantage > 0 ? "+" : ""}${short(c.advantage)}`),
    c.num_tokens === null ? null : element("span", "", plural(c.num_tokens, "token")),
    ...Object.entries(c.rewards).map(([name, v]) => element("span", "", `${name} ${short(v)}`)),
    c.turns ? element("span", "", plural(c.turns.length ? c.turns[c.turns.length - 1].place : 0, "turn")) : null,
    c.turns ? element("span", ENDED.includes(c.stop) ? "" : "flag", `ended: ${c.stop}`) : c.stop === "length" ? element("span", "flag", "cut off") : null, c.error ? element("span", "flag", c.error) : null);
  return element("article", `card ${c.mark}`, prompt ? element("p", "dim of", prompt) : null, head, c.turns ? dialogue(c.turns) : block(c.text));
};

const none = v => v === null || v === undefined;
const size = c => none(c.num_tokens) ? c.num_characters : c.num_tokens;
const by = (value, sign) => (a, b) => none(value(a)) - none(value(b)) || sign * (value(a) - value(b));
const ORDERS = {
  "highest reward first": by(c => c.reward, -1), "lowest reward first": by(c => c.reward, 1),
  "longest first": by(size, -1), "shortest first": by(size, 1),
  "stop reason": (a, b) => (a.stop || "").localeCompare(b.stop || ""), "as sampled": () => 0,
};
const MAX_CARDS = 60;

function browseGroups(box, groups) {
  const stepped = groups.some(g => g.step !== null);
  const steps = [...new Set(groups.map(g => g.step))];
  const everyone = groups.flatMap(g => g.completions);
  const stops = [...new Set(everyone.map(c => c.stop).filter(s => s))].sort();
  const kinds = Object.keys(words).filter(mark => everyone.some(c => c.mark === mark));
  const view = element("div");
  view.setAttribute("aria-live", "polite");
  const of = () => groups.filter(g => g.step === steps[stepper.selectedIndex]);
  const passes = c =>
    (!finder.value || wordsOf(c).toLowerCase().includes(finder.value.toLowerCase())) &&
    (!stopper.selectedIndex || c.stop === stops[stopper.selectedIndex - 1]) &&
    (!marker.selectedIndex || c.mark === kinds[marker.selectedIndex - 1]) &&
    (least.value === "" || (c.reward !== null && c.reward >= +least.value)) &&
    (most.value === "" || (c.reward !== null && c.reward <= +most.value));
  const summary = group => {
    const all = group.completions, n = group.num_completions;
    const verified = all.filter(c => c.mark === "right" || c.mark === "wrong");
    const right = total(all.filter(c => c.mark === "right"), c => c.count);
    const rewarded = all.filter(c => c.reward !== null), m = total(rewarded, c => c.count);
    const facts = [plural(n, "completion") + (all.length < n ? `, ${all.length} different` : "")];
    if (verified.length) facts.push(`${right} of ${total(verified, c => c.count)} right`);
    if (m) facts.push(`mean reward ${short(total(rewarded, c => c.count * c.reward) / m)}`);
    return facts;
  };
  const show = () => {
    const group = of()[prompter.selectedIndex], whole = scope.selectedIndex === 1;
    const pool = whole ? groups : [group];
    const cards = pool.flatMap(g => g.completions.filter(passes).map(c => [c, g])).sort((a, b) => Object.values(ORDERS)[order.selectedIndex](a[0], b[0]));
    const among = total(pool, g => g.num_completions), shown = cards.slice(0, MAX_CARDS);
    const matches = total(cards, x => x[0].count), drawn = total(shown, x => x[0].count);
    const facts = whole ? [`${plural(pool.length, "prompt")}, ${plural(among, "completion")}`] : summary(group);
    if (matches < among) facts.push(`${plural(matches, "match", "matches")}`);
    if (drawn < matches) facts.push(`the first ${drawn} shown`);
    const from = g => (stepped ? `step ${g.step} · ` : "") + line(g.prompt);
    view.replaceChildren(...whole ? [] : [question(group.prompt, group.answer)], element("p", "dim", facts.join(" · ")),
      ...shown.some(x => x[0].turns) ? [colours()] : [],
      element("div", `cards${shown.some(x => x[0].turns) ? " episodes" : ""}`, ...shown.map(([c, g]) => card(c, whole ? from(g) : null))));
    back.disabled = whole || !stepper.selectedIndex && !prompter.selectedIndex;
    on.disabled = whole || stepper.selectedIndex === steps.length - 1 && prompter.selectedIndex === prompter.length - 1;
    stepper.disabled = prompter.disabled = whole;
  };
  const fill = (last = false) => {
    options(prompter, of().map(g => line(g.prompt)));
    if (last) prompter.selectedIndex = prompter.length - 1;
    show();
  };
  const move = by => {
    const at = prompter.selectedIndex + by;
    if (at >= 0 && at < prompter.length) { prompter.selectedIndex = at; show(); }
    else { stepper.selectedIndex += by; fill(by < 0); }
  };
  const back = mover("← previous", "previous prompt", () => move(-1)), on = mover("next →", "next prompt", () => move(1));
  const [stepper, stepLabel] = select("step", steps.map(s => `step ${s}`), () => fill());
  const [prompter, promptLabel] = select("prompt", [], show, "wide");
  const [scope, scopeLabel] = select("show", ["this prompt", `all ${groups.length} prompts`], show);
  const [order, orderLabel] = select("sort by", Object.keys(ORDERS), show);
  const [finder, findLabel] = input("text contains", "search", show, "wide");
  const [stopper, stopLabel] = select("stop reason", ["any", ...stops], show);
  const [marker, markLabel] = select("verdict", ["any", ...kinds], show);
  const [least, leastLabel] = input("reward from", "number", show, "small"), [most, mostLabel] = input("to", "number", show, "small");
  stepper.selectedIndex = steps.length - 1;
  box.append(element("div", "picker", stepped ? stepLabel : null, promptLabel, back, on),
    element("div", "picker filters", scopeLabel, orderLabel, findLabel, stops.length > 1 ? stopLabel : null,
      kinds.length > 1 ? markLabel : null, everyone.some(c => c.reward !== null) ? leastLabel : null, everyone.some(c => c.reward !== null) ? mostLabel : null), view);
  fill();
}

function browseProblems(box, problems) {
  const view = element("div");
  view.setAttribute("aria-live", "polite");
  const share = s => s.right / s.samples, last = p => p.stages[p.stages.length - 1];
  const KINDS = {
    "all problems": () => true,
    "never right at the end": p => last(p).right === 0,
    "always right at the end": p => last(p).right === last(p).samples,
    ...problems[0].stages.length > 1 ? {
      "better at the end": p => share(last(p)) > share(p.stages[0]),
      "worse at the end": p => share(last(p)) < share(p.stages[0]),
    } : {},
  };
  let matching = problems;
  // What the cards below a heading are, and how many of all samples they stand for.
  const fact = s => {
    const held = total(s.texts, t => t.count);
    if (s.search) return `${s.right ? "right" : "wrong"}; chosen` + (!s.candidates ? "" :
      ` among ${plural(s.candidates, "candidate")}` + (held < s.candidates ? `, ${held} shown` : ""));
    const verdict = s.samples === 1 ? (s.right ? "right" : "wrong") : `${s.right} of ${s.samples} right`;
    return verdict + (held < s.samples ? `; the first ${held} shown` : "");
  };
  const sample = t => element("article", `card ${t.mark}${t.chosen ? " choice" : ""}`,
    element("header", "", t.chosen ? element("span", "pick", "★ chosen") : null, t.mark ? element("span", "mark", words[t.mark]) : element("span", "", "candidate"), copies(t)),
    block(t.text));
  const show = () => {
    const problem = matching[chooser.selectedIndex];
    back.disabled = chooser.selectedIndex <= 0;
    on.disabled = chooser.selectedIndex >= matching.length - 1;
    if (!problem) { view.replaceChildren(element("p", "dim", "No problem matches.")); return; }
    const columns = problem.stages.map(s => element("div", "", element("h4", "", s.stage, element("span", "dim", fact(s))), ...s.texts.map(sample)));
    view.replaceChildren(question(problem.prompt, problem.answer), element("div", "columns", ...columns));
  };
  const fill = () => {
    const text = finder.value.toLowerCase(), holds = x => x.toLowerCase().includes(text);
    matching = problems.filter(p => Object.values(KINDS)[kind.selectedIndex](p) &&
      (!text || holds(p.prompt) || p.stages.some(s => s.texts.some(t => holds(t.text)))));
    options(chooser, matching.map(p => `${problems.indexOf(p) + 1}. ${line(p.prompt)}`));
    show();
  };
  const move = by => { chooser.selectedIndex += by; show(); };
  const back = mover("← previous", "previous problem", () => move(-1)), on = mover("next →", "next problem", () => move(1));
  const [chooser, chooseLabel] = select("problem", [], show, "wide");
  const [kind, kindLabel] = select("show", Object.keys(KINDS), () => fill());
  const [finder, findLabel] = input("text contains", "search", () => fill(), "wide");
  box.append(element("div", "picker", chooseLabel, back, on), element("div", "picker filters", kindLabel, findLabel), view);
  fill();
}

for (const box of $all("[data-browse]")) {
  const values = JSON.parse(document.getElementById(box.dataset.from).textContent);
  if (values.length) ({ rollouts: browseGroups, problems: browseProblems })[box.dataset.browse](box, values);
}
