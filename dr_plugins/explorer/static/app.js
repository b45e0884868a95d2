"use strict";
// What all pages share: the address (#page?query), names, pictures and keys.

const SMALL = 100; // pixels; larger pictures are smoothed
const PAGES = { images: "Images", classes: "Classes", about: "About" };

class Explorer {
  async start() {
    this.data = typeof exported === "undefined" ? new Served() : new Exported(exported);
    this.set = await this.data.set();
    defineNumbers(this.set.numbers);
    this.hasPictures = this.set.has_pictures;
    document.title = `${this.set.title} · dr-plugins explore`;
    document.getElementById("title").textContent = this.set.title;
    document.getElementById("subtitle").textContent = `${plural(this.set.images, "image")} × ${plural(this.set.samples, "view")}, top ${this.set.topk} of ${count(this.set.classes.length)} classes`;
    window.addEventListener("hashchange", () => this.show());
    document.addEventListener("keydown", (event) => this.key(event));
    await this.show();
  }

  className(index) {
    return this.set.classes[index].name;
  }

  address(page, query) {
    const params = new URLSearchParams(clean(query)).toString();
    return `#${page}${params ? `?${params}` : ""}`;
  }

  /** Keeps the query in the address, so that Back and bookmarks return to it. */
  remember(page, query) {
    history.replaceState(null, "", this.address(page, query));
  }

  async show() {
    const [path, params] = location.hash.slice(1).split("?");
    const query = Object.fromEntries(new URLSearchParams(params));
    const [name, row] = (path || "images").split("/");
    const page = { image: () => new ImagePage(this, row, query), classes: () => new ClassesPage(this), about: () => new AboutPage(this) }[name];
    this.page = page ? page() : new ImagesPage(this, query);
    this.showTabs(name);
    const main = document.getElementById("main");
    main.setAttribute("aria-busy", "true");
    try {
      await this.page.render(main);
      main.removeAttribute("aria-busy");
    } catch (error) {
      main.replaceChildren(h("p", { class: "problem", role: "alert" }, error.message));
    }
  }

  showTabs(name) {
    document.getElementById("pages").replaceChildren(
      ...Object.entries(PAGES).map(([page, text]) => h("a", { href: `#${page}`, "aria-current": page === name || (page === "images" && name === "image") ? "page" : null }, text)),
      h("button", { type: "button", class: "help", onclick: () => this.help(), "aria-label": "Keys", title: "Keys (?)" }, "?"));
  }

  thumbnail({ row, key }) {
    return this.hasPictures ? this.picture(this.data.thumbnail(row), key) : h("span", { class: "missing" }, key);
  }

  picture(src, alt) {
    return this.watched(h("img", { src, alt, loading: "lazy", decoding: "async" }));
  }

  view(row, sample, text) {
    return this.watched(this.data.view(row, sample, text));
  }

  /** Shows the pixels of a small picture, and the reason in place of one that cannot be made. */
  watched(picture) {
    const small = (event) => event.target.naturalWidth < SMALL && event.target.classList.add("small");
    picture.addEventListener("load", small);
    picture.addEventListener("error", async () => {
      const problem = await this.data.problem(picture.src);
      picture.replaceWith(h("span", { class: "missing", title: problem }, problem || "cannot be shown"));
    });
    return picture;
  }

  help() {
    document.getElementById("help").showModal();
  }

  key(event) {
    const typing = event.target.closest("input, select, textarea, dialog[open]");
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (typing) {
      if (event.key === "Escape" && typing.matches("input, select")) typing.blur();
      return;
    }
    const page = Object.keys(PAGES)[Number(event.key) - 1];
    if (page) location.hash = page;
    else if (event.key === "?") this.help();
    else this.page.key(event);
  }
}

const explorer = new Explorer();
explorer.start().catch((error) => document.getElementById("main").replaceChildren(h("p", { class: "problem", role: "alert" }, error.message)));
