"use strict";
// Charts as SVG and HTML. Colours come from the style sheet.

/** Bars of an answer: [[class, probability], ...]; the label's bar has another colour. */
function answerBars(answer, label, className, limit = answer.length) {
  return h("ul", { class: "bars" }, answer.slice(0, limit).map(([one, prob], place) =>
    h("li", { class: one === label ? "is-label" : place === 0 ? "is-other" : "" },
      h("span", { class: "name", title: className(one) }, className(one)),
      h("span", { class: "track", "aria-hidden": "true" }, h("span", { style: { width: `${100 * Math.min(prob, 1)}%` } })),
      h("span", { class: "value" }, chance(prob)))));
}

/** Two histograms on top of each other: all images, and those that match. A click chooses a bin. */
function histogramChart({ name, all, matching, range, show, choose }) {
  const [width, height] = [240, 48];
  const most = Math.max(...all, 1);
  const step = width / all.length;
  // The square root: a few images are visible beside many.
  const tall = (value) => (value ? Math.max(height * Math.sqrt(value / most), 1.5) : 0);
  const bar = (value, index, kind) => svg("rect", { class: kind, x: index * step + 0.5, y: height - tall(value), width: step - 1, height: tall(value) });
  const bound = (index) => range[0] + ((range[1] - range[0]) * index) / all.length;
  return svg("svg", { class: "histogram", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": `Histogram of ${name.toLowerCase()}` },
    all.map((value, index) => bar(value, index, "all")),
    matching.map((value, index) => bar(value, index, "matching")),
    all.map((value, index) => svg("rect", { class: "hit", x: index * step, y: 0, width: step, height, onclick: () => choose(bound(index), bound(index + 1)) },
      svg("title", {}, `${show(bound(index))} to ${show(bound(index + 1))}: ${plural(value, "image")}, ${count(matching[index])} shown`))));
}

/** One row per class, one cell per view: how probable the class is in each view. */
function strip(views, classes, label, className, point) {
  const cells = (one) => views.map((view, index) => {
    const prob = (view.top.find(([other]) => other === one) || [one, 0])[1];
    return svg("rect", { x: index, y: 0, width: 1.02, height: 1, "fill-opacity": prob.toFixed(3), "data-view": view.sample });
  });
  return h("div", { class: "strip", onpointerover: (event) => point(event.target.dataset.view), onpointerleave: () => point(undefined) },
    classes.flatMap((one, place) => [
      h("span", { class: "name", title: className(one) }, className(one)),
      svg("svg", { class: one === label ? "is-label" : place === 0 ? "is-other" : "", viewBox: `0 0 ${views.length} 1`, preserveAspectRatio: "none", role: "img", "aria-label": `Probability of ${className(one)} in each of ${views.length} views` }, cells(one)),
    ]));
}

/** A table of counts: labels in rows, the teacher's classes in columns. */
function confusionMatrix({ classes, counts }, className, address) {
  const most = Math.max(...counts.flat(), 1);
  const cell = (value, i, j) => {
    const shade = value ? 0.12 + 0.88 * Math.sqrt(value / most) : 0;
    const text = `${className(classes[i])} taken for ${className(classes[j])}: ${plural(value, "image")}`;
    return h("td", { class: `${i === j ? "diagonal" : "wrong"}${shade > 0.78 ? " strong" : shade > 0.55 ? " medium" : ""}`, style: { "--shade": shade.toFixed(3) } },
      value ? h("a", { href: address(classes[i], classes[j]), title: text, "aria-label": text }, value < 1000 ? String(value) : `${Math.round(value / 1000)}k`) : null);
  };
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Confusion matrix" },
    h("table", { class: "matrix" },
      h("thead", {}, h("tr", {}, h("td", {}), classes.map((one) => h("th", { scope: "col", title: className(one) }, h("span", {}, className(one)))))),
      h("tbody", {}, counts.map((row, i) => h("tr", {}, h("th", { scope: "row", title: className(classes[i]) }, className(classes[i])), row.map((value, j) => cell(value, i, j)))))));
}
