"use strict";
const $all = (query, from = document) => [...from.querySelectorAll(query)];
const element = (tag, name, ...inside) => {
  const made = document.createElement(tag);
  if (name) made.className = name;
  made.append(...inside.filter(x => x !== null && x !== undefined && x !== ""));
  return made;
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
  for (const box of $all("[data-smoothing]", section))
    box.addEventListener("change", () => section.classList.toggle("unsmoothed", !box.checked));
}

// Every text of a run reaches the page as a text node, never as markup.
const block = text => { const pre = element("pre", "", text); pre.tabIndex = 0; return pre; };
const asked = (prompt, answer) => element("div", "prompt", element("pre", "", prompt),
  answer === null ? null : element("p", "dim", "gold answer ", element("b", "", answer)));
const words = { right: "✓ right", wrong: "✗ wrong", best: "★ best of its group" };
const labelled = (text, control, name) => element("label", name, text, control);
const options = (select, texts) => select.replaceChildren(...texts.map((text, i) => {
  const option = element("option", "", text);
  option.value = i;
  return option;
}));
const line = text => { const flat = text.replace(/\s+/g, " ").trim(); return flat.length > 70 ? flat.slice(0, 69) + "…" : flat; };
const mover = (text, label, act) => {
  const button = element("button", "", text);
  button.type = "button"; button.setAttribute("aria-label", label); button.addEventListener("click", act);
  return button;
};

const card = c => {
  const head = element("header", "", c.mark ? element("span", "mark", words[c.mark]) : null,
    element("span", "", "reward ", element("b", "", short(c.reward))),
    c.advantage === null ? null : element("span", "", `advantage ${c.advantage > 0 ? "+" : ""}${short(c.advantage)}`),
    c.num_tokens === null ? null : element("span", "", `${c.num_tokens} tokens`),
    ...Object.entries(c.rewards).map(([name, v]) => element("span", "", `${name} ${short(v)}`)),
    c.cut ? element("span", "flag", "cut off") : null, c.error ? element("span", "flag", c.error) : null);
  return element("article", `card ${c.mark}`, head, block(c.text));
};

function browseGroups(box, groups) {
  const steps = [...new Set(groups.map(g => g.step))];
  const stepper = element("select"), prompter = element("select"), view = element("div");
  view.setAttribute("aria-live", "polite");
  const of = () => groups.filter(g => g.step === steps[stepper.selectedIndex]);
  const show = () => {
    const group = of()[prompter.selectedIndex];
    const right = group.completions.filter(c => c.mark === "right").length, n = group.completions.length;
    const verified = group.completions.some(c => c.mark === "right" || c.mark === "wrong");
    const rewards = group.completions.map(c => c.reward).filter(r => r !== null);
    const mean = rewards.length ? rewards.reduce((a, b) => a + b, 0) / rewards.length : null;
    const sorted = [...group.completions].sort((a, b) => (b.reward ?? -1e9) - (a.reward ?? -1e9));
    const fact = `${verified ? `${right} of ${n} right, ` : ""}mean reward ${short(mean)}; highest reward first`;
    view.replaceChildren(asked(group.prompt, group.answer), element("p", "dim", fact), element("div", "cards", ...sorted.map(card)));
    back.disabled = !stepper.selectedIndex && !prompter.selectedIndex;
    on.disabled = stepper.selectedIndex === steps.length - 1 && prompter.selectedIndex === prompter.length - 1;
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
  options(stepper, steps.map(s => `step ${s}`));
  stepper.selectedIndex = steps.length - 1;
  stepper.addEventListener("change", () => fill());
  prompter.addEventListener("change", show);
  box.append(element("div", "picker", labelled("step", stepper), labelled("prompt", prompter, "wide"), back, on), view);
  fill();
}

function browseProblems(box, problems) {
  const chooser = element("select"), view = element("div");
  view.setAttribute("aria-live", "polite");
  const show = () => {
    const problem = problems[chooser.selectedIndex];
    const columns = problem.stages.map(s => {
      const fact = s.samples === 1 ? (s.right ? "right" : "wrong") : `${s.right} of ${s.samples} right`;
      const cards = s.texts.map(([text, right]) => {
        const mark = right === null ? "" : right ? "right" : "wrong";
        return element("article", `card ${mark}`, mark ? element("header", "", element("span", "mark", words[mark])) : null, block(text));
      });
      return element("div", "", element("h4", "", s.stage, element("span", "dim", fact)), ...cards);
    });
    view.replaceChildren(asked(problem.prompt, problem.answer), element("div", "columns", ...columns));
    back.disabled = !chooser.selectedIndex;
    on.disabled = chooser.selectedIndex === problems.length - 1;
  };
  const move = by => { chooser.selectedIndex += by; show(); };
  const back = mover("← previous", "previous problem", () => move(-1)), on = mover("next →", "next problem", () => move(1));
  options(chooser, problems.map((p, i) => `${i + 1}. ${line(p.prompt)}`));
  chooser.addEventListener("change", show);
  box.append(element("div", "picker", labelled("problem", chooser, "wide"), back, on), view);
  show();
}

for (const box of $all("[data-browse]")) {
  const values = JSON.parse(document.getElementById(box.dataset.from).textContent);
  if (values.length) ({ rollouts: browseGroups, problems: browseProblems })[box.dataset.browse](box, values);
}
