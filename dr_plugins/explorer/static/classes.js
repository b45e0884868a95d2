"use strict";
// The classes, and which of them the teacher takes for each other.

class ClassesPage {
  constructor(explorer) {
    this.explorer = explorer;
    this.sort = "name";
    this.descending = false;
  }

  render(main) {
    const { explorer } = this;
    const { pairs, matrix, classes } = explorer.set;
    const className = (one) => explorer.className(one);
    const images = (label, predicted) => explorer.address("images", { label, predicted, sort: "label_prob" });
    this.body = h("tbody");
    this.head = h("tr");
    main.replaceChildren(
      h("h1", {}, "Classes"),
      h("div", { class: "halves" },
        h("section", { "aria-labelledby": "matrix" },
          h("h2", { id: "matrix" }, matrix.classes.length < classes.length ? `The ${matrix.classes.length} classes that are confused most` : "Label against teacher"),
          h("p", { class: "muted" }, "Rows are labels, columns the teacher's most probable class, averaged over views. Numbers are images."),
          matrix.counts.flat().some(Boolean) ? confusionMatrix(matrix, className, images) : h("p", {}, "No image has a label.")),
        h("section", { "aria-labelledby": "pairs" },
          h("h2", { id: "pairs" }, "Most confused"),
          pairs.length ? h("ol", { class: "pairs" }, pairs.slice(0, 20).map(([label, other, number_]) =>
            h("li", {}, h("a", { href: images(label, other) },
              h("span", { class: "name" }, className(label)), h("span", { class: "muted" }, " taken for "), h("span", { class: "name" }, className(other))),
            h("span", { class: "value" }, `${count(number_)} (${percent(number_ / classes[label].images)})`)))) : h("p", { class: "muted" }, "No image has another answer than its label."))),
      h("section", { "aria-labelledby": "all" },
        h("h2", { id: "all" }, `All ${plural(classes.length, "class").replace(/classs$/, "classes")}`),
        h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Classes" },
          h("table", { class: "classes" }, h("thead", {}, this.head), this.body))));
    this.show();
  }

  show() {
    const { explorer, sort, descending } = this;
    const columns = { name: { name: "Class" }, images: { name: "Images", show: count }, ...NUMBERS };
    this.head.replaceChildren(...Object.entries(columns).map(([name, column]) =>
      h("th", { scope: "col", "aria-sort": name === sort ? (descending ? "descending" : "ascending") : null, title: column.hint },
        h("button", { type: "button", onclick: () => this.sortBy(name) }, column.name, h("span", { "aria-hidden": "true" }, name === sort ? (descending ? " ↓" : " ↑") : "")))));
    const known = (value) => (value === null ? Infinity : value);
    const compare = (a, b) => (sort === "name" ? a.name.localeCompare(b.name) : known(a[sort]) - known(b[sort]));
    const rows = explorer.set.classes.map((one, index) => ({ ...one, index })).sort((a, b) => (descending ? compare(b, a) : compare(a, b)));
    this.body.replaceChildren(...rows.map((one) => h("tr", {},
      h("th", { scope: "row" }, one.images ? h("a", { href: explorer.address("images", { label: one.index }) }, one.name) : one.name),
      h("td", {}, count(one.images)),
      ...Object.entries(NUMBERS).map(([name, { show }]) => h("td", {}, show(one[name]))))));
  }

  sortBy(name) {
    this.descending = name === this.sort ? !this.descending : false;
    this.sort = name;
    const place = [...this.head.children].indexOf(document.activeElement?.closest("th"));
    this.show();
    if (place >= 0) focusOn(this.head.children[place].firstChild);
  }

  key() {}
}
