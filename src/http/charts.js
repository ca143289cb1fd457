// What happened in the last hour, drawn as SVG: a line, an axis with round numbers, and the hour below.
//
// Each chart is drawn at the width that it has, so that its text is never scaled. A pointer over one of them reads all of them at
// that moment. For those who do not see it the label says what there is to see.

import { duration, time } from './format.js';
import { make, put } from './tables.js';

const SVG = 'http://www.w3.org/2000/svg';
const HOUR_MS = 3_600_000;
/** Sizes in pixels. */
const HEIGHT = 128;
const [TOP, RIGHT, BOTTOM, LEFT] = [8, 6, 20, 46];

const draw = (name, attributes, text = '') => {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text) element.textContent = text;
  return element;
};

/** Round numbers from 0 to at least `most`, three steps or four. */
export const ticks = (most, least) => {
  const rough = Math.max(most, least) / 3;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = Math.max([1, 2, 2.5, 5, 10].find((n) => n * power >= rough * 0.999) * power, least);
  return Array.from({ length: Math.max(Math.ceil(Math.max(most, least) / step - 1e-9), 1) + 1 }, (_, i) => i * step);
};

/**
 * `value(point, step_seconds)` is a number or null; `text` shows it, `axis` shows it shortly; `least`: the smallest step of the axis;
 * `mark(status)`: a line to stay below, if there is one.
 */
class Chart {
  constructor({ title, unit, value, text, axis, least = 1e-3, mark = () => null, kind = '' }) {
    Object.assign(this, { title, unit, value, text, axis, least, mark });
    this.figure = make('figure', `chart ${kind}`);
    const caption = this.figure.appendChild(make('figcaption'));
    this.when = make('span', 'when');
    this.now = make('span', 'now');
    caption.append(make('h3', '', title), this.when, this.now);
    this.svg = this.figure.appendChild(draw('svg', { role: 'img', height: HEIGHT, width: '100%' }));
  }

  draw(status, cursor) {
    const step = status.history.step_seconds;
    const points = status.history.points.map((point) => ({ at: point.at_ms, y: this.value(point, step) }));
    const seen = points.filter((point) => point.y !== null);
    const end = status.now_ms;
    const mark = this.mark(status);
    const most = Math.max(0, ...seen.map((point) => point.y));
    // A mark that is far above all else would press the line flat.
    const shown_mark = mark !== null && mark <= most * 4;
    const levels = most === 0 ? [0, 1] : ticks(shown_mark ? Math.max(most, mark) : most, this.least);
    const width = Math.max(this.svg.clientWidth, 120);
    const x = (at) => LEFT + (width - LEFT - RIGHT) * (1 - (end - at) / HOUR_MS);
    const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / levels.at(-1));
    const parts = [];

    for (const level of levels) {
      parts.push(draw('line', { class: 'grid', x1: LEFT, x2: width - RIGHT, y1: y(level), y2: y(level) }));
      parts.push(draw('text', { class: 'tick', x: LEFT - 6, y: y(level) + 4, 'text-anchor': 'end' }, this.axis(level)));
    }
    for (const [minutes, text, anchor] of [[60, '1 h ago', 'start'], [30, '30 min ago', 'middle'], [0, 'now', 'end']]) {
      parts.push(draw('text', { class: 'tick', x: x(end - minutes * 60_000), y: HEIGHT - 4, 'text-anchor': anchor }, text));
    }
    if (shown_mark) {
      parts.push(draw('line', { class: 'mark', x1: LEFT, x2: width - RIGHT, y1: y(mark), y2: y(mark) }));
      parts.push(draw('text', { class: 'mark-text', x: width - RIGHT, y: y(mark) + 13, 'text-anchor': 'end' }, 'mark'));
    }
    for (const run of runs(points, step)) {
      const line = run.map((point) => `${x(point.at).toFixed(1)},${y(point.y).toFixed(1)}`).join(' L');
      const [first, last] = [x(run[0].at).toFixed(1), x(run.at(-1).at).toFixed(1)];
      parts.push(draw('path', { class: 'area', d: `M${first},${y(0)} L${line} L${last},${y(0)} Z` }));
      parts.push(draw('path', { class: 'line', d: run.length > 1 ? `M${line}` : `M${line} h0.01` }));
    }
    const read = cursor === null ? null : nearest(seen, cursor);
    if (read) {
      parts.push(draw('line', { class: 'cursor', x1: x(read.at), x2: x(read.at), y1: TOP, y2: y(0) }));
      parts.push(draw('circle', { class: 'dot', cx: x(read.at), cy: y(read.y), r: 3.5 }));
    }
    if (seen.length === 0) {
      parts.push(draw('text', { class: 'tick', x: (LEFT + width) / 2, y: HEIGHT / 2, 'text-anchor': 'middle' }, `first point after ${step} s`));
    }
    this.svg.replaceChildren(...parts);
    this.svg.setAttribute('aria-label', this.label(seen, end));
    const value = read ?? seen.at(-1);
    put(this.when, read ? time(read.at) : '');
    put(this.now, value ? `${this.text(value.y)}${this.unit}` : '–');
    this.time_at = (pixels) => end - (1 - (pixels - LEFT) / (width - LEFT - RIGHT)) * HOUR_MS;
  }

  label(seen, end) {
    if (seen.length === 0) return `${this.title}: nothing yet`;
    const top = seen.reduce((a, b) => (b.y > a.y ? b : a));
    const mean = seen.reduce((sum, point) => sum + point.y, 0) / seen.length;
    const said = (y) => `${this.text(y)}${this.unit}`;
    return `${this.title} over the last ${duration((end - seen[0].at) / 1000)}: last ${said(seen.at(-1).y)}, highest ${said(top.y)} at ${time(top.at)}, mean ${said(mean)}`;
  }
}

/** Stretches without a gap: a step that is missing is not drawn through. */
const runs = (points, step) => {
  const all = [];
  let last = null;
  for (const point of points) {
    if (point.y === null) {
      last = null;
      continue;
    }
    if (last === null || point.at - last.at > step * 2500) all.push([]);
    all.at(-1).push(point);
    last = point;
  }
  return all;
};

const nearest = (points, at) =>
  points.reduce((best, point) => (best && Math.abs(best.at - at) <= Math.abs(point.at - at) ? best : point), null);

/** All charts of the page, which share the moment that a pointer is at. */
export class Charts {
  constructor(parent, kinds) {
    this.cursor = null;
    this.status = null;
    this.charts = kinds.map((kind) => new Chart(kind));
    parent.append(...this.charts.map((chart) => chart.figure));
    for (const chart of this.charts) {
      chart.svg.addEventListener('pointermove', (event) => this.read(chart.time_at?.(event.offsetX) ?? null));
      chart.svg.addEventListener('pointerleave', () => this.read(null));
    }
    new ResizeObserver(() => this.draw()).observe(parent);
  }

  read(at) {
    this.cursor = at;
    this.draw();
  }

  update(status) {
    this.status = status;
    this.draw();
  }

  draw() {
    if (this.status) for (const chart of this.charts) chart.draw(this.status, this.cursor);
  }
}
