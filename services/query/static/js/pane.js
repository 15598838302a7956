// One image under glass: a frame, the saliency map over it, and boxes with what matched.

import { el, stateBox } from "./dom.js";

const SWIPE_PX = 24; // for one frame

export class Pane {
  constructor(name, { onMove = () => {} } = {}) {
    this.name = name;
    this.frames = [];
    this.at = 0;
    this.marked = null; // the frame that the boxes lie on
    this.onMove = onMove;
    this.image = el("img", { class: "frame", alt: name, draggable: "false" });
    this.layer = el("img", { class: "layer", alt: "", hidden: true, draggable: "false" });
    this.boxes = el("div", { class: "boxes" });
    this.picture = el("div", { class: "picture" }, this.image, this.layer, this.boxes);
    this.trouble = el("div", { class: "trouble" });
    this.caption = el("p", { class: "caption" });
    this.root = el("div", { class: "pane" }, this.caption, el("div", { class: "fit" }, this.picture), this.trouble);
    this.image.addEventListener("load", () => {
      this.picture.style.setProperty("--ratio", this.image.naturalWidth / this.image.naturalHeight);
      this.picture.classList.remove("loading");
      this.trouble.replaceChildren();
    });
    this.image.addEventListener("error", () => {
      this.picture.classList.remove("loading");
      const again = el("button", { class: "button", type: "button", onclick: () => this.again() }, "Try again");
      this.trouble.replaceChildren(stateBox("error", "This frame cannot be shown", "Its pixels could not be decoded, or the archive is away.", again));
    });
    // A finger that moves sideways walks through the frames; up and down still scrolls the page.
    let finger = null;
    this.root.addEventListener("pointerdown", (event) => {
      const taken = event.target.closest("button") || this.root.closest(".windowing, .choosing");
      if (event.pointerType === "touch" && event.isPrimary && !taken && this.frames.length > 1) finger = { id: event.pointerId, x: event.clientX };
    });
    this.root.addEventListener("pointermove", (event) => {
      const moved = finger?.id === event.pointerId ? finger.x - event.clientX : 0;
      if (Math.abs(moved) < SWIPE_PX) return;
      finger.x = event.clientX;
      this.go(this.at + Math.sign(moved));
    });
    for (const end of ["pointerup", "pointercancel"]) this.root.addEventListener(end, () => { finger = null; });
    let turned = 0;
    this.root.addEventListener("wheel", (event) => {
      if (this.frames.length < 2 || event.ctrlKey) return;
      event.preventDefault();
      turned += event.deltaY;
      // A notch of a wheel is near 100 px; a touchpad sends many small ones.
      if (Math.abs(turned) < 40) return;
      this.go(this.at + Math.sign(turned));
      turned = 0;
    }, { passive: false });
  }

  get frame() { return this.frames[this.at]; }

  show(frames, at) {
    this.frames = frames;
    this.at = Math.min(Math.max(0, at), frames.length - 1);
    this.draw();
  }

  go(to, { quiet = false } = {}) {
    if (!this.frames.length) return;
    const next = Math.min(this.frames.length - 1, Math.max(0, to));
    if (next === this.at) return;
    this.at = next;
    this.draw();
    if (!quiet) this.onMove();
  }

  draw() {
    if (!this.frame) return;
    if (this.image.getAttribute("src") !== this.frame.image_url) {
      this.picture.classList.add("loading");
      this.image.src = this.frame.image_url;
    }
    this.boxes.hidden = this.marked !== this.frame.key;
    this.image.alt = `${this.name}, frame ${this.at + 1} of ${this.frames.length}`;
    for (const near of [this.at + 1, this.at - 1]) if (this.frames[near]) new Image().src = this.frames[near].image_url;
  }

  // After a failure.
  again() {
    if (!this.trouble.hasChildNodes()) return;
    this.image.removeAttribute("src");
    this.draw();
  }

  // Boxes in shares of one frame, this one unless another is named; each is told by its number too.
  mark(regions, key = this.frame?.key) {
    this.marked = key;
    this.boxes.hidden = key !== this.frame?.key;
    this.boxes.replaceChildren(...regions.map(({ region, text, kind }) => el("span", {
      class: `box ${kind ?? ""}`,
      vars: { left: `${region.left * 100}%`, top: `${region.top * 100}%`, width: `${region.width * 100}%`, height: `${region.height * 100}%` },
    }, text ? el("b", {}, text) : null)));
  }
}

// All frames of a study in viewing order, with what finds them again.
export const framesOf = (study) => study.series.flatMap((series, place) => series.frames.map((frame) => ({
  image_url: `${frame.image_url}?size=1024`,
  key: `${frame.sop_instance_uid}/${frame.frame_number}`,
  sop_instance_uid: frame.sop_instance_uid,
  frame_number: frame.frame_number,
  series: `${series.modality}${study.series.length > 1 ? ` series ${place + 1} of ${study.series.length}` : ""}`,
})));
