"use strict";
// One image: its original with the crops, the averaged answer, and every view with its answer.

const STRIP_CLASSES = 6;
const OUTLINES = 12; // drawn at once; more hide the image
const ORDERS = { sample: "Number", label: "Probability of the label", confidence: "Confidence" };

class ImagePage {
  constructor(explorer, row, { at, ...query }) {
    Object.assign(this, { explorer, row: Number(row), at: at === undefined ? null : Number(at), query });
  }

  async render(main) {
    const { explorer } = this;
    const image = await explorer.data.image(this.row);
    const className = (one) => explorer.className(one);
    this.image = image;
    this.views = image.views.map((view, sample) => ({ ...view, sample }));
    this.back = explorer.address("images", this.query);
    this.grid = h("div", { class: "views" });
    const [[top]] = image.average;
    main.replaceChildren(
      h("div", { class: "bar" },
        h("a", { class: "button", href: this.back }, "← Images"),
        h("h1", { class: "key", tabindex: "-1" }, image.key),
        this.neighbours = h("nav", { class: "pager", "aria-label": "Neighbouring images" })),
      h("div", { class: "image" },
        h("figure", { class: "original" }, this.original(), h("figcaption", { class: "muted" },
          this.caption())),
        h("section", { "aria-labelledby": "answer" },
          h("p", { class: "verdict" },
            h("span", { class: "chip is-label" }, "Label: ", image.label < 0 ? "unknown" : className(image.label)),
            h("span", { class: `chip ${top === image.label ? "is-label" : "is-other"}` }, "Teacher: ", className(top))),
          h("dl", { class: "numbers" }, Object.entries(NUMBERS).map(([name, one]) => h("div", { title: one.hint }, h("dt", {}, one.name), h("dd", {}, one.show(image[name]))))),
          h("h2", { id: "answer" }, "Answer averaged over views"),
          answerBars(image.average, image.label, className))),
      h("h2", {}, "Answer to each view"),
      strip(this.views, image.average.slice(0, STRIP_CLASSES).map(([one]) => one), image.label, className, (sample) => this.point(sample)),
      h("div", { class: "bar" }, h("h2", {}, "Views"),
        h("div", { class: "field inline" }, h("label", { for: "order" }, "Sort by"),
          h("select", { id: "order", onchange: (event) => this.showViews(event.target.value) }, Object.entries(ORDERS).map(([value, text]) => h("option", { value }, text))))),
      this.grid);
    this.showViews("sample");
    focusOn(main.querySelector("h1"));
    await this.showNeighbours();
  }

  caption() {
    const [height, width] = this.image.size;
    const size = width ? `${width} × ${height} pixels. ` : "";
    const shown = Math.min(this.views.length, OUTLINES);
    return `${size}Outlines of ${shown < this.views.length ? `${shown} of ` : ""}${plural(this.views.length, "view")}; point at a view to see its own.`;
  }

  original() {
    const { explorer, image } = this;
    const [height, width] = image.size;
    const crops = this.views.filter((view) => view.outline);
    this.crops = svg("svg", { viewBox: `0 0 ${width || 1} ${height || 1}`, class: "crops", "aria-hidden": "true" },
      crops.map(({ outline, sample }) => svg("polygon", { class: sample < OUTLINES ? "shown" : "", points: outline.join(" "), "data-view": sample, "vector-effect": "non-scaling-stroke" })));
    const picture = explorer.hasPictures ? explorer.picture(explorer.data.original(image.row), image.key) : h("span", { class: "missing" }, "shown without images");
    const shape = width ? { "--width": width, "--height": height } : {};
    return h("div", { class: "frame", style: shape }, picture, this.crops);
  }

  /** Highlights a view's crop. */
  point(sample) {
    if (!this.crops) return;
    this.crops.classList.toggle("pointing", sample !== undefined);
    for (const crop of this.crops.children) crop.classList.toggle("pointed", crop.dataset.view === String(sample));
  }

  showViews(order) {
    const { label } = this.image;
    const probability = (view) => (view.top.find(([one]) => one === label) || [label, 0])[1];
    const value = { sample: (view) => view.sample, label: probability, confidence: (view) => view.top[0][1] }[order];
    this.grid.replaceChildren(...this.views.toSorted((a, b) => value(a) - value(b)).map((view) => this.view(view)));
  }

  view(view) {
    const { explorer, image } = this;
    const [[top]] = view.top;
    const text = `View ${view.sample}: ${explorer.className(top)} ${percent(view.top[0][1])}`;
    const [height, width] = explorer.set.view_size;
    const point = () => this.point(view.sample);
    const partner = view.partner === null ? null : explorer.data.has(view.partner)
      ? h("a", { href: explorer.address(`image/${view.partner}`, {}), title: view.partner_key }, "mixed")
      : h("span", { title: view.partner_key }, "mixed");
    return h("figure", { class: `view${image.label >= 0 && top !== image.label ? " differs" : ""}`, onpointerenter: point, onpointerleave: () => this.point(undefined) },
      h("div", { class: "pixels", style: { "aspect-ratio": `${width} / ${height}` } },
        explorer.hasPictures ? explorer.view(image.row, view.sample, text) : null),
      answerBars(view.top, image.label, (one) => explorer.className(one), 3),
      h("figcaption", {}, h("b", {}, `#${view.sample}`), partner, h("span", {}, view.done.join(", "))));
  }

  async showNeighbours() {
    if (this.at === null) return;
    const first = Math.max(this.at - 1, 0);
    const page = await this.explorer.data.page({ ...clean(this.query), offset: first, limit: 3 });
    const link = (place, text, key) => {
      const image = place < 0 ? undefined : page.images[place - first];
      const href = image && this.explorer.address(`image/${image.row}`, { ...this.query, at: place });
      return image ? h("a", { class: "button", href, "aria-keyshortcuts": key }, text) : h("span", { class: "button off", "aria-hidden": "true" }, text);
    };
    this.previous = link(this.at - 1, "← Previous", "ArrowLeft");
    this.next = link(this.at + 1, "Next →", "ArrowRight");
    this.neighbours.replaceChildren(this.previous, h("span", { class: "muted" }, `${count(this.at + 1)} of ${count(page.total)}`), this.next);
  }

  key(event) {
    if (event.key === "Escape") location.href = this.back;
    const link = { ArrowLeft: this.previous, p: this.previous, ArrowRight: this.next, n: this.next }[event.key];
    if (link && link.href) location.href = link.href;
  }
}
