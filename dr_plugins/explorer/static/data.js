"use strict";
// The data of the set: from the server, or from the files of an export (`exported`, in set.js).

/** Numbers of an image, with their names and how they are shown; the set states them. */
const NUMBERS = {};

function defineNumbers(stated) {
  for (const [name, { digits, ...one }] of Object.entries(stated)) {
    NUMBERS[name] = { ...one, show: digits === null ? percent : (value) => number(value, digits) };
  }
}

class Served {
  async set() { return get("api/set"); }
  async page(query) { return get(`api/images?${new URLSearchParams(query)}`); }
  async image(row) { return get(`api/images/${row}`); }
  has() { return true; }
  thumbnail(row) { return `thumbnails/${row}.jpg`; }
  original(row) { return `originals/${row}.jpg`; }

  /** A picture of a view. */
  view(row, sample, text) {
    return h("img", { src: `views/${row}/${sample}.png`, alt: text, loading: "lazy", decoding: "async" });
  }

  /** Why a picture could not be made. */
  async problem(address) {
    const response = await fetch(address);
    return response.ok ? "" : response.text();
  }
}

async function get(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(await response.text());
  return response.json();
}

/** An export: filters and sorts as `selection.py` does. */
class Exported {
  constructor(content) {
    this.content = content;
    this.loading = new Map();
    this.rows = new Set(content.images.map((one) => one.row));
    this.sheet = content.set.sheet;
  }

  async set() { return this.content.set; }

  async page(query) {
    const rows = this.select(query);
    const offset = Number(query.offset || 0);
    const shown = rows.slice(offset, offset + Number(query.limit));
    const { ranges, histograms } = this.content.set;
    const binned = Object.entries(histograms).map(([name, bins]) => [name, histogram(rows.map((one) => one[name]), ranges[name][1], bins.length)]);
    return { total: rows.length, offset, images: shown, histograms: Object.fromEntries(binned) };
  }

  select(query) {
    let rows = this.content.images;
    if (query.label) rows = rows.filter((one) => one.label === Number(query.label));
    if (query.predicted) rows = rows.filter((one) => one.top[0][0] === Number(query.predicted));
    if (query.search) rows = rows.filter((one) => one.key.includes(query.search));
    for (const name of Object.keys(NUMBERS)) {
      if (!query[name]) continue;
      const [least, most] = query[name].split(",");
      const [from, to] = [Math.fround(least || -Infinity), Math.fround(most || Infinity)];
      rows = rows.filter((one) => one[name] !== null && Math.fround(one[name]) >= from && Math.fround(one[name]) <= to);
    }
    const sign = query.order === "descending" ? -1 : 1;
    const by = query.sort || "key";
    if (by === "key") return sign > 0 ? rows : rows.toReversed();
    return rows.toSorted((a, b) => {
      if (a[by] === null || b[by] === null) return (a[by] === null) - (b[by] === null);
      return sign * (a[by] - b[by]);
    });
  }

  /** Browsers do not fetch files of a file system, but they run scripts. */
  image(row) {
    if (!this.loading.has(row)) {
      this.loading.set(row, new Promise((resolve, reject) => {
        const script = h("script", { src: `data/${row}.js`, onerror: () => reject(new Error(`data/${row}.js cannot be read`)) });
        script.addEventListener("load", () => resolve(this.content.details[row]));
        document.head.append(script);
      }));
    }
    return this.loading.get(row);
  }

  has(row) { return this.rows.has(row); }
  thumbnail(row) { return `thumbnails/${row}.jpg`; }
  original(row) { return `originals/${row}.jpg`; }

  /** A view is a part of the sheet of all views. */
  view(row, sample, text) {
    const { columns, rows } = this.sheet;
    const place = (index, all) => (all > 1 ? `${(100 * index) / (all - 1)}%` : "0");
    return h("div", {
      class: this.content.set.view_size[1] < SMALL ? "part small" : "part", role: "img", "aria-label": text,
      style: {
        "background-image": `url(sheets/${row}.jpg)`,
        "background-size": `${100 * columns}% ${100 * rows}%`,
        "background-position": `${place(sample % columns, columns)} ${place(Math.floor(sample / columns), rows)}`,
      },
    });
  }

  async problem() { return "not exported"; }
}

function histogram(values, most, bins) {
  const counts = new Array(bins).fill(0);
  for (const value of values) counts[Math.min(Math.max(Math.floor(Math.fround(value) * (bins / most)), 0), bins - 1)] += 1;
  return counts;
}
