"use strict";
// The images: filters, order, histograms and a page of thumbnails.

const PAGE = 48;

class ImagesPage {
  constructor(explorer, query) {
    this.explorer = explorer;
    this.query = { sort: "key", ...query };
    this.request = 0;
  }

  render(main) {
    this.grid = h("div", { class: "grid", id: "grid" });
    this.status = h("p", { class: "status", role: "status" });
    this.pager = h("nav", { class: "pager", "aria-label": "Pages of images" });
    this.filters = h("form", { class: "fields", onsubmit: (event) => event.preventDefault() }, this.fields());
    const open = window.matchMedia("(min-width: 800px)").matches;
    main.replaceChildren(h("div", { class: "columns" },
      h("aside", { class: "side", "aria-label": "Filters" },
        h("details", { open }, h("summary", {}, "Filter and sort"), this.filters)),
      h("section", { "aria-labelledby": "found" },
        h("div", { class: "bar" }, h("h1", { id: "found", class: "hidden" }, "Images"), this.status, this.pager),
        this.grid)));
    return this.update();
  }

  fields() {
    const { classes, ranges } = this.explorer.set;
    const option = (value, text, chosen) => h("option", { value, selected: String(value) === String(chosen ?? "") }, text);
    const listed = classes.map((one, index) => [index, one]);
    const field = (name, label, control) => {
      control.id = `field-${name}`;
      return h("div", { class: "field" }, h("label", { for: control.id }, label), control);
    };
    const select = (name, label, options) => field(name, label, h("select", { name, onchange: (event) => this.change(name, event.target.value) }, options));
    return [
      field("search", "File name contains",
        h("input", { type: "search", name: "search", value: this.query.search ?? "", autocomplete: "off", spellcheck: "false", oninput: (event) => this.change("search", event.target.value) })),
      select("label", "Label", [option("", "all classes", this.query.label), ...listed.filter(([, one]) => one.images).map(([index, one]) => option(index, `${one.name} (${count(one.images)})`, this.query.label))]),
      select("predicted", "Teacher's answer", [option("", "all classes", this.query.predicted), ...listed.map(([index, one]) => option(index, one.name, this.query.predicted))]),
      h("div", { class: "pair" },
        select("sort", "Sort by", [option("key", "File name", this.query.sort), ...Object.entries(NUMBERS).map(([name, one]) => option(name, one.name, this.query.sort))]),
        select("order", "Order", [option("", "low first", this.query.order), option("descending", "high first", this.query.order)])),
      ...Object.entries(NUMBERS).map(([name, one]) => this.rangeField(name, one, ranges[name])),
      h("button", { type: "button", class: "clear", onclick: () => this.clear() }, "Clear all"),
    ];
  }

  /** Bounds of a number, below its histogram if it has one. */
  rangeField(name, { name: title, hint }, [low, high]) {
    const [least, most] = (this.query[name] || ",").split(",");
    const input = (value, text, placeholder) => h("input", {
      type: "number", step: "any", min: low, value, placeholder, "aria-label": `${title}, ${text}`,
      oninput: () => this.readRange(name),
    });
    return h("fieldset", { class: "range", title: hint },
      h("legend", {}, title),
      name in this.explorer.set.histograms ? h("div", { class: "histogram-place", "data-name": name }) : null,
      input(least, "at least", String(low)), h("span", { "aria-hidden": "true" }, "–"), input(most, "at most", high.toFixed(high < 10 ? 2 : 0)));
  }

  inputs(name) {
    const title = NUMBERS[name].name;
    return ["at least", "at most"].map((text) => this.filters.querySelector(`[aria-label="${title}, ${text}"]`));
  }

  readRange(name) {
    const bounds = this.inputs(name).map((input) => input.value);
    this.change(name, bounds.some((bound) => bound !== "") ? bounds.join(",") : "");
  }

  choose(name, least, most) {
    const [low, high] = this.inputs(name);
    const digits = (value) => String(Number(value.toFixed(4)));
    const same = low.value === digits(least) && high.value === digits(most);
    [low.value, high.value] = same ? ["", ""] : [digits(least), digits(most)];
    this.readRange(name);
  }

  change(name, value) {
    this.query = { ...this.query, [name]: value, offset: undefined };
    this.update();
  }

  clear() {
    this.query = { sort: "key" };
    this.filters.replaceChildren(...this.fields());
    this.update();
  }

  turn(pages) {
    const offset = Number(this.query.offset || 0) + pages * PAGE;
    if (offset < 0 || offset >= this.total) return;
    this.query = { ...this.query, offset };
    this.update().then(() => { window.scrollTo({ top: 0 }); focusOn(this.grid.querySelector("a")); });
  }

  async update() {
    const request = ++this.request;
    this.explorer.remember("images", this.query);
    const page = await this.explorer.data.page({ ...clean(this.query), limit: PAGE });
    if (request !== this.request) return; // a later change was faster
    this.total = page.total;
    const { images } = this.explorer.set;
    const last = page.offset + page.images.length;
    const shown = page.total ? `${count(page.offset + 1)}–${count(last)} of ${plural(page.total, "image")}` : "No image matches";
    this.status.replaceChildren(shown, page.total < images ? h("span", { class: "muted" }, ` (${count(images)} in the set)`) : "");
    this.pager.replaceChildren(
      h("button", { type: "button", disabled: page.offset === 0, onclick: () => this.turn(-1), "aria-keyshortcuts": "p" }, "← Previous"),
      h("button", { type: "button", disabled: last >= page.total, onclick: () => this.turn(1), "aria-keyshortcuts": "n" }, "Next →"));
    this.grid.replaceChildren(...page.images.map((one, index) => this.card(one, page.offset + index)));
    for (const [name, matching] of Object.entries(page.histograms)) {
      this.filters.querySelector(`[data-name=${name}]`).replaceChildren(histogramChart({
        ...NUMBERS[name], all: this.explorer.set.histograms[name], matching, range: this.explorer.set.ranges[name],
        choose: (least, most) => this.choose(name, least, most),
      }));
    }
  }

  card(image, at) {
    const { explorer } = this;
    const [[top, prob]] = image.top;
    const agrees = image.label < 0 || image.label === top;
    const address = explorer.address(`image/${image.row}`, { ...clean(this.query), at });
    const sorted = this.query.sort === "key" ? "confidence" : this.query.sort;
    return h("a", { class: `card${agrees ? "" : " differs"}`, href: address, title: image.key },
      explorer.thumbnail(image),
      h("span", { class: "label" }, image.label < 0 ? "no label" : explorer.className(image.label)),
      h("span", { class: "answer" },
        h("span", { class: "track", "aria-hidden": "true" }, h("span", { style: { width: `${100 * Math.min(prob, 1)}%` } })),
        h("span", { class: "line" }, h("span", { class: "name" }, `${agrees ? "" : "≠ "}${explorer.className(top)}`), h("span", {}, percent(prob)))),
      h("span", { class: "muted" }, `${NUMBERS[sorted].short ?? NUMBERS[sorted].name} ${NUMBERS[sorted].show(image[sorted])}`));
  }

  key(event) {
    const cards = [...this.grid.children];
    const now = cards.indexOf(document.activeElement);
    const columns = getComputedStyle(this.grid).gridTemplateColumns.split(" ").length;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
    if (step) {
      const next = now < 0 ? 0 : now + step;
      if (!cards[next]) return;
      event.preventDefault();
      focusOn(cards[next]);
    } else if (event.key === "n") this.turn(1);
    else if (event.key === "p") this.turn(-1);
    else if (event.key === "/") {
      event.preventDefault();
      this.filters.closest("details").open = true;
      focusOn(this.filters.elements.search);
    } else if (event.key === "Escape" && now < 0) focusOn(cards[0]);
  }
}

/** A query without what is empty. */
function clean(query) {
  return Object.fromEntries(Object.entries(query).filter(([, value]) => value !== "" && value !== undefined));
}
