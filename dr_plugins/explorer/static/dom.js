"use strict";
// Building elements. Texts become text nodes and attribute values, never markup, so that the names
// of files and classes are shown as they are.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes, listeners (`onclick`) and children; null children are left out. */
function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const number = (value, digits = 2) => (value === null ? "–" : value.toFixed(digits));
const percent = (value, digits = 0) => (value === null ? "–" : `${(100 * value).toFixed(digits)} %`);
/** A probability; small ones with a digit more. */
const chance = (value) => (value > 0 && value < 0.0005 ? "< 0.1 %" : percent(value, value > 0 && value < 0.1 ? 1 : 0));
const count = (value) => value.toLocaleString("en");
const plural = (value, word) => `${count(value)} ${word}${value === 1 ? "" : "s"}`;

/** Moves the focus after the page changed, so that keyboards and screen readers follow. */
function focusOn(element) {
  if (element) element.focus({ preventScroll: false });
}
