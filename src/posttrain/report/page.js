"use strict";
// Hover or tap a curve: the nearest step and its value.
for (const svg of document.querySelectorAll("svg[data-points]")) {
  const points = svg.dataset.points.split(";").map(p => p.split(",").map(Number));
  const [left, right] = svg.dataset.box.split(",").map(Number);
  const cursor = svg.querySelector(".cursor"), out = svg.parentNode.querySelector("output");
  const first = points[0][0], last = points[points.length - 1][0];
  svg.addEventListener("pointermove", event => {
    const x = (event.clientX - svg.getBoundingClientRect().left) * svg.viewBox.baseVal.width / svg.clientWidth;
    const step = first + (x - left) / (right - left) * (last - first);
    const near = points.reduce((a, b) => Math.abs(b[0] - step) < Math.abs(a[0] - step) ? b : a);
    const place = left + (near[0] - first) / ((last - first) || 1) * (right - left);
    cursor.setAttribute("x1", place); cursor.setAttribute("x2", place); cursor.removeAttribute("hidden");
    out.textContent = `${near[0]}: ${Number(near[1].toPrecision(4))}`;
  });
  svg.addEventListener("pointerleave", () => { cursor.setAttribute("hidden", ""); out.textContent = ""; });
}
// Rollouts: choose a step and a prompt, see all of its completions.
const element = (tag, text, name) => {
  const e = document.createElement(tag);
  if (text !== undefined) e.textContent = text;
  if (name) e.className = name;
  return e;
};
for (const box of document.querySelectorAll("[data-rollouts]")) {
  const groups = JSON.parse(document.getElementById(box.dataset.rollouts).textContent);
  const steps = [...new Set(groups.map(g => g.step))];
  const [stepper, prompter] = box.querySelectorAll("select"), view = box.querySelector(".view");
  const number = v => v === null || v === undefined ? "none" : Number(v.toPrecision(3));
  const show = () => {
    const group = groups.filter(g => g.step === Number(stepper.value))[Number(prompter.value)];
    view.replaceChildren();
    if (!group) return;
    const prompt = element("div", undefined, "prompt");
    prompt.append(element("pre", group.prompt));
    if (group.answer !== null) prompt.append(element("p", `gold answer: ${group.answer}`, "dim"));
    const list = element("div", undefined, "completions");
    const best = Math.max(...group.completions.map(c => c.reward ?? -Infinity));
    for (const c of group.completions) {
      const kind = c.reward === null ? "none" : c.reward > 0 && c.reward === best ? "good" : "";
      const card = element("article", undefined, `completion ${kind}`), head = element("header");
      const reward = element("span", "reward ");
      reward.append(element("b", String(number(c.reward))));
      head.append(reward, element("span", `advantage ${number(c.advantage)}`), element("span", `${c.num_tokens} tokens`));
      if (c.finish_reason === "length") head.append(element("span", "cut off"));
      if (c.error) head.append(element("span", c.error));
      card.append(head, element("pre", c.text));
      list.append(card);
    }
    view.append(prompt, list);
  };
  const fill = () => {
    const found = groups.filter(g => g.step === Number(stepper.value));
    prompter.replaceChildren(...found.map((g, i) => {
      const option = element("option", g.prompt.replace(/\s+/g, " ").slice(0, 60));
      option.value = i;
      return option;
    }));
    show();
  };
  stepper.replaceChildren(...steps.map(s => { const o = element("option", `step ${s}`); o.value = s; return o; }));
  stepper.value = steps[steps.length - 1];
  stepper.addEventListener("change", fill);
  prompter.addEventListener("change", show);
  for (const [name, move] of [["previous", -1], ["next", 1]])
    box.querySelector(`[data-move=${name}]`).addEventListener("click", () => {
      const at = prompter.selectedIndex + move;
      if (at >= 0 && at < prompter.options.length) { prompter.selectedIndex = at; show(); }
      else if (steps[stepper.selectedIndex + move] !== undefined) {
        stepper.selectedIndex += move; fill();
        if (move < 0) { prompter.selectedIndex = prompter.options.length - 1; show(); }
      }
    });
  fill();
}
