"use strict";
// How the set was made.

class AboutPage {
  constructor(explorer) {
    this.explorer = explorer;
  }

  render(main) {
    main.replaceChildren(
      h("h1", {}, "About this set"),
      h("dl", { class: "about" }, this.explorer.set.about.map(([name, lines]) => h("div", {}, h("dt", {}, name), lines.map((line) => h("dd", {}, line))))),
      h("h2", {}, "Numbers of an image"),
      h("dl", { class: "about" }, Object.values(NUMBERS).map(({ name, hint }) => h("div", {}, h("dt", {}, name), h("dd", {}, hint)))));
  }

  key() {}
}
