/* draw.js - the diagram: nodes as lanes, time to the right; only what is in sight is drawn. */

const GUTTER = 76, AXIS = 30, LANE_LEAST = 18, LANE_MOST = 240, TRACK_LEAST = 7, TRACK_MOST = 14;
const STRIP = 4; /* height of what is wrong on the way to another node */
const FONT = 'system-ui, -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif';
/* Of bands, in the order of their kinds. */
const BAND_COLOURS = ['down', 'starting', 'paused', 'apart', 'apart', 'paused', 'call', 'paused',
                      'paused'];
const HATCHES = ['rising', 'dotted', 'upright', 'crossed']; /* of bands that fill a lane */

class Diagram {
  constructor(canvas, run) {
    this.canvas = canvas;
    this.pen = canvas.getContext('2d');
    this.run = run;
    this.from = 0;
    this.to = 1;
    this.scroll = 0;
    this.selected = -1;
    this.hovered = -1;
    this.setFilter(new Filter().apply(run), 'steps');
    this.readColours();
  }

  /* ---- where things are */

  setFilter(shown, axis) {
    this.shown = shown;
    this.axis = axis;
    this.x = layOut(this.run, shown, axis);
    this.list = [];
    for (let i = 0; i < this.run.count; i++) if (shown[i]) this.list.push(i);
    const n = this.run.count;
    this.least = n ? this.x[0] : 0;
    this.most = n ? Math.max(this.x[n - 1], this.least + 1) : 1;
    this.tasksShown = new Uint8Array(this.run.tasks.length);
    for (const i of this.list) if (this.run.taskOf[i] >= 0) this.tasksShown[this.run.taskOf[i]] = 1;
  }

  setSize(width, height) {
    const ratio = window.devicePixelRatio || 1;
    this.width = width;
    this.height = height;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const room = (height - AXIS) / Math.max(1, this.run.nodes);
    this.lane = Math.max(LANE_LEAST, Math.min(LANE_MOST, Math.floor(room)));
    this.track = Math.floor(this.lane * 0.45 / this.run.tracks);
    this.track = Math.max(TRACK_LEAST, Math.min(TRACK_MOST, this.track));
    this.scrollBy(0);
  }

  scrollBy(pixels) {
    const most = Math.max(0, this.run.nodes * this.lane - (this.height - AXIS));
    this.scroll = Math.max(0, Math.min(most, this.scroll + pixels));
  }

  /* Shows from one place to another, as far as there is something. */
  show(from, to) {
    const all = this.most - this.least;
    const width = Math.max(this.axis === 'time' ? 20 : 3, Math.min(all * 1.04, to - from));
    const beyond = Math.max(all * 0.02, width * 0.3), wished = (from + to - width) / 2;
    this.from = Math.max(this.least - beyond, Math.min(this.most + beyond - width, wished));
    this.to = this.from + width;
  }

  px(x) {
    return GUTTER + (x - this.from) / (this.to - this.from) * (this.width - GUTTER);
  }

  at(px) {
    return this.from + (px - GUTTER) / (this.width - GUTTER) * (this.to - this.from);
  }

  pxOf(i) {
    return this.px(this.x[i]);
  }

  top(node) {
    return AXIS + node * this.lane - this.scroll;
  }

  /* The line of a node's life. */
  line(node) {
    return this.top(node) + Math.round(Math.min(this.lane * 0.42, 40 + this.lane * 0.06));
  }

  laneAt(y) {
    const node = Math.floor((y - AXIS + this.scroll) / this.lane);
    return y >= AXIS && node >= 0 && node < this.run.nodes ? node : -1;
  }

  /* Records in sight. */
  range() {
    const first = lowerBound(this.x, this.from);
    let last = lowerBound(this.x, this.to);
    while (last < this.run.count && this.x[last] <= this.to) last++;
    return [first, last];
  }

  /* Things in sight: those open where a block begins, and those that begin after that. */
  *inSight(open, beginsAt) {
    const [first, last] = this.range(), block = Math.floor(first / BLOCK);
    yield* open[block];
    for (let i = block * BLOCK; i < last; i++) {
      const thing = beginsAt(i);
      if (thing >= 0) yield thing;
    }
  }

  *arrowsInSight() {
    const run = this.run;
    for (const index of this.inSight(run.openArrows, i => {
      const arrow = run.arrows[run.arrowOf[i]];
      return arrow && (arrow.from === i || arrow.from < 0) ? run.arrowOf[i] : -1;
    })) {
      const arrow = run.arrows[index];
      if (this.shown[arrow.from >= 0 ? arrow.from : arrow.to]) yield index;
    }
  }

  *tasksInSight() {
    const run = this.run;
    for (const index of this.inSight(run.openTasks, i => {
      const task = run.tasks[run.taskOf[i]];
      return task && task.phase[0] === i ? run.taskOf[i] : -1;
    })) if (this.tasksShown[index]) yield index;
  }

  /* From where to where an arrow goes, and whether it ends there. A lost one ends on the way. */
  arrowLine(arrow) {
    const y1 = this.line(arrow.sender), y2 = this.line(arrow.receiver);
    const x1 = arrow.from < 0 ? GUTTER - 40 : this.pxOf(arrow.from);
    if (arrow.to < 0) return [x1, y1, x1 + 26, y1 + (y2 - y1) * 0.22, false];
    const x2 = this.pxOf(arrow.to), part = arrow.lost ? 0.55 : 1;
    return [x1, y1, x2, y1 + (y2 - y1) * part, true];
  }

  taskTop(task) {
    const room = this.top(task.node) + this.lane - this.line(task.node) - 10;
    const tracks = Math.max(1, Math.min(this.run.tracks, Math.floor(room / this.track)));
    return this.line(task.node) + 7 + Math.min(task.track, tracks - 1) * this.track;
  }

  /* ---- colours */

  readColours() {
    const style = getComputedStyle(document.documentElement);
    this.colour = {};
    for (const name of ['back', 'lane', 'ink', 'muted', 'faint', 'rule', 'message', 'task', 'call',
                        'file', 'life', 'fault', 'down', 'paused', 'apart', 'starting', 'select'])
      this.colour[name] = style.getPropertyValue(`--${name}`).trim();
    this.groupColour = COLOURS.map(name => this.colour[name]);
    this.hatches = new Map();
  }

  /* Stripes: rising, upright or dotted, so that bands differ without colour. */
  hatch(colour, kind) {
    const name = colour + kind;
    if (this.hatches.has(name)) return this.hatches.get(name);
    const tile = document.createElement('canvas'), pen = tile.getContext('2d');
    tile.width = tile.height = 8;
    pen.strokeStyle = pen.fillStyle = colour;
    pen.lineWidth = 1.2;
    pen.beginPath();
    if (kind === 'rising') for (const d of [-8, 0, 8]) pen.moveTo(d, 8), pen.lineTo(d + 8, 0);
    if (kind === 'upright') pen.moveTo(4, 0), pen.lineTo(4, 8);
    if (kind === 'crossed') pen.moveTo(0, 0), pen.lineTo(8, 8), pen.moveTo(0, 8), pen.lineTo(8, 0);
    pen.stroke();
    if (kind === 'dotted') pen.fillRect(3, 3, 2, 2);
    const pattern = this.pen.createPattern(tile, 'repeat');
    this.hatches.set(name, pattern);
    return pattern;
  }

  /* ---- drawing */

  draw() {
    const pen = this.pen;
    pen.clearRect(0, 0, this.width, this.height);
    pen.fillStyle = this.colour.back;
    pen.fillRect(0, 0, this.width, this.height);
    pen.save();
    pen.beginPath();
    pen.rect(GUTTER, AXIS, this.width - GUTTER, this.height - AXIS);
    pen.clip();
    this.drawLanes();
    this.drawBands();
    this.drawGrid();
    this.drawTasks();
    this.drawArrows();
    this.drawMarks();
    if (this.lane >= 44) this.drawFaultNames();
    this.drawFailure();
    this.drawSelected();
    pen.restore();
    this.drawAxis();
    this.drawGutter();
  }

  drawLanes() {
    const pen = this.pen;
    for (let node = 0; node < this.run.nodes; node++) {
      if (node % 2) {
        pen.fillStyle = this.colour.lane;
        pen.fillRect(GUTTER, this.top(node), this.width, this.lane);
      }
      pen.fillStyle = this.colour.rule;
      pen.fillRect(GUTTER, this.line(node) - 0.5, this.width, 1);
    }
  }

  bandSpan(band) {
    return [band.from < 0 ? GUTTER : this.pxOf(band.from),
            band.to < 0 ? this.width : this.pxOf(band.to)];
  }

  drawBands() {
    for (const band of this.run.bands) {
      const [x1, x2] = this.bandSpan(band);
      const hidden = this.axis === 'steps' && x2 - x1 < 0.1; /* no event of it is shown */
      if (x2 < GUTTER || x1 > this.width || hidden) continue;
      const left = Math.max(GUTTER, x1), width = Math.max(1.5, Math.min(x2, this.width) - left);
      if (band.kind <= APART) this.drawBand(band, left, width);
      else this.drawStrip(band, left, width);
    }
  }

  /* The whole lane; or, of a node that starts, its line. */
  drawBand(band, left, width) {
    const colour = this.bandColour(band.kind), pen = this.pen;
    const top = this.top(band.node) + 1, height = this.lane - 2;
    pen.globalAlpha = 0.13;
    pen.fillStyle = colour;
    pen.fillRect(left, top, width, height);
    pen.globalAlpha = 0.26;
    pen.fillStyle = this.hatch(colour, HATCHES[band.kind]);
    pen.fillRect(left, top, width, height);
    pen.globalAlpha = 1;
    this.bandLabel(this.run.bandNames[band.kind], colour, left, width, top + height - 6);
  }

  drawStrip(band, left, width) {
    const pen = this.pen, all = band.node < 0, nodes = this.run.nodes;
    const colour = this.bandColour(band.kind);
    const top = all ? AXIS : this.top(band.node) + 2, back = band.peer >= 0 && band.peer < nodes;
    pen.fillStyle = colour;
    pen.globalAlpha = 0.75;
    pen.fillRect(left, top, width, STRIP);
    pen.globalAlpha = 1;
    const name = this.run.bandNames[band.kind] + (back ? ` \u2192 node${band.peer}` : '');
    this.bandLabel(name, colour, left, width, top + STRIP + 10);
  }

  /* Where there is room for it. */
  bandLabel(text, colour, left, width, y) {
    const pen = this.pen;
    pen.font = '600 10.5px ' + FONT;
    if (this.lane < 44 || pen.measureText(text).width + 12 > width) return;
    pen.fillStyle = colour;
    pen.textAlign = 'left';
    pen.textBaseline = 'alphabetic';
    pen.fillText(text, left + 6, y);
  }

  drawTasks() {
    const pen = this.pen, height = this.track - 2, done = new Map(), grain = this.grain();
    pen.fillStyle = this.colour.task;
    for (const index of this.tasksInSight()) {
      const task = this.run.tasks[index], y = this.taskTop(task);
      for (let p = 0; p < task.phase.length; p += 2) {
        const kind = task.phase[p + 1];
        const end = p + 2 < task.phase.length ? task.phase[p + 2] : task.end;
        const x1 = Math.max(GUTTER - 4, this.pxOf(task.phase[p]));
        const x2 = end < 0 ? this.width + 4 : Math.min(this.width + 4, this.pxOf(end));
        const place = (task.node * TRACKS + task.track) * 4 + kind, spot = Math.round(x2 / grain);
        if (x2 < GUTTER || (done.get(place) === spot && x2 - x1 < grain)) continue;
        done.set(place, spot);
        pen.globalAlpha = kind === RUNS ? 1 : kind === WAITS ? 0.3 : 0.5;
        const bar = kind === RUNS ? height : kind === WAITS ? 1 : 2;
        pen.fillRect(x1, y + (height - bar) / 2, Math.max(kind === RUNS ? 2 : 0.5, x2 - x1), bar);
      }
    }
    pen.globalAlpha = 1;
  }

  /* How many pixels apart things are told from each other: more where there are too many. */
  grain() {
    const [first, last] = this.range();
    return last - first > 12000 ? 6 : last - first > 4000 ? 2 : 1;
  }

  drawArrows() {
    const pen = this.pen, last = new Map(), heads = [], crosses = [], grain = this.grain();
    pen.strokeStyle = this.colour.message;
    pen.lineWidth = 1;
    pen.globalAlpha = grain > 1 ? 0.3 : 0.75;
    pen.beginPath();
    for (const index of this.arrowsInSight()) {
      const arrow = this.run.arrows[index], [x1, y1, x2, y2, ends] = this.arrowLine(arrow);
      if (x2 < GUTTER - 30 || x1 > this.width + 30) continue;
      const pair = arrow.sender * 4096 + arrow.receiver;
      const spot = Math.round(x1 / grain) * 8192 + Math.round(x2 / grain);
      if (last.get(pair) === spot && !arrow.lost) continue;
      last.set(pair, spot);
      pen.moveTo(x1, y1);
      pen.lineTo(x2, y2);
      if (arrow.lost) crosses.push([x2, y2]);
      else if (ends) heads.push([x1, y1, x2, y2]);
    }
    pen.stroke();
    pen.globalAlpha = 1;
    if (grain === 1) this.drawHeads(pen, heads);
    this.drawCrosses(pen, crosses);
  }

  drawHeads(pen, heads) {
    pen.fillStyle = this.colour.message;
    pen.beginPath();
    for (const [x1, y1, x2, y2] of heads) {
      const length = Math.hypot(x2 - x1, y2 - y1) || 1;
      const dx = (x2 - x1) / length, dy = (y2 - y1) / length;
      const bx = x2 - dx * 7, by = y2 - dy * 7;
      pen.moveTo(x2, y2);
      pen.lineTo(bx - dy * 2.6, by + dx * 2.6);
      pen.lineTo(bx + dy * 2.6, by - dx * 2.6);
    }
    pen.fill();
  }

  drawCrosses(pen, crosses) {
    pen.strokeStyle = this.colour.fault;
    pen.lineWidth = 2;
    pen.beginPath();
    for (const [x, y] of crosses) {
      pen.moveTo(x - 4, y - 4), pen.lineTo(x + 4, y + 4);
      pen.moveTo(x - 4, y + 4), pen.lineTo(x + 4, y - 4);
    }
    pen.stroke();
  }

  /* Events as dots on their node's line; faults as triangles above it. */
  drawMarks() {
    const [first, last] = this.range(), pen = this.pen, done = new Map();
    for (let i = first; i < last; i++) {
      if (!this.shown[i]) continue;
      const group = this.run.group(i), x = Math.round(this.pxOf(i) * 2) / 2;
      const place = this.run.node[i] * 8 + group;
      if (done.get(place) === x) continue;
      done.set(place, x);
      pen.fillStyle = this.groupColour[group];
      this.drawMark(pen, group, x, this.markHeight(i));
    }
  }

  /* What is about no node stands at the top. */
  markHeight(i) {
    return this.run.node[i] < 0 ? AXIS + 12 : this.line(this.run.node[i]);
  }

  /* What the faults in sight are, where there is room to say so. */
  drawFaultNames() {
    const [first, last] = this.range(), pen = this.pen, next = new Map();
    pen.font = '10px ' + FONT;
    pen.textAlign = 'left';
    pen.textBaseline = 'alphabetic';
    for (let i = last - 1; i >= first; i--) {
      if (!this.shown[i] || this.run.group(i) !== FAULTS) continue;
      const x = this.pxOf(i), node = this.run.node[i], free = next.get(node) ?? this.width;
      const text = this.run.text(i).replace(/^fault: /, '');
      if (x + 12 + pen.measureText(text).width < free) {
        pen.lineWidth = 3;
        pen.strokeStyle = this.colour.back;
        pen.strokeText(text, x + 8, this.markHeight(i) - 3);
        pen.fillStyle = this.colour.fault;
        pen.fillText(text, x + 8, this.markHeight(i) - 3);
      }
      next.set(node, x - 6);
    }
  }

  drawMark(pen, group, x, y) {
    pen.beginPath();
    if (group === FAULTS) {
      pen.moveTo(x, y), pen.lineTo(x - 5, y - 9), pen.lineTo(x + 5, y - 9);
    } else {
      pen.arc(x, y, group === MESSAGES || group === TASKS ? 1.7 : 2.8, 0, 7);
    }
    pen.fill();
  }

  drawFailure() {
    const pen = this.pen, at = this.run.failed;
    if (at < 0 || !this.run.count) return;
    const x = Math.round(this.pxOf(at)) + 0.5;
    pen.strokeStyle = this.colour.fault;
    pen.lineWidth = 1.5;
    pen.setLineDash([6, 3]);
    pen.beginPath();
    pen.moveTo(x, AXIS);
    pen.lineTo(x, this.height);
    pen.stroke();
    pen.setLineDash([]);
    this.drawFlag(`check \u201c${this.run.failure.check}\u201d fails here`, x);
  }

  drawFlag(text, x) {
    const pen = this.pen;
    pen.font = '600 11px ' + FONT;
    const width = pen.measureText(text).width + 14;
    const left = x + width + 4 > this.width ? x - width : x;
    pen.fillStyle = this.colour.fault;
    pen.fillRect(left, this.height - 22, width, 18);
    pen.fillStyle = this.colour.back;
    pen.textAlign = 'left';
    pen.textBaseline = 'middle';
    pen.fillText(text, left + 7, this.height - 12.5);
  }

  /* The selected event with its message or task, and more faintly the one under the pointer. */
  drawSelected() {
    for (const [at, alpha] of [[this.hovered, 0.55], [this.selected, 1]]) {
      if (at < 0 || !this.shown[at]) continue;
      this.pen.globalAlpha = alpha;
      this.drawChosen(at);
    }
    this.pen.globalAlpha = 1;
  }

  drawChosen(at) {
    const pen = this.pen, run = this.run;
    const arrow = run.arrows[run.arrowOf[at]], task = run.tasks[run.taskOf[at]];
    pen.strokeStyle = this.colour.select;
    pen.lineWidth = 2;
    if (arrow) {
      const [x1, y1, x2, y2] = this.arrowLine(arrow);
      pen.beginPath(), pen.moveTo(x1, y1), pen.lineTo(x2, y2), pen.stroke();
    }
    if (task) {
      const x1 = this.pxOf(task.phase[0]), x2 = task.end < 0 ? this.width : this.pxOf(task.end);
      pen.strokeRect(x1 - 2, this.taskTop(task) - 2.5, x2 - x1 + 4, this.track + 3);
    }
    pen.beginPath();
    pen.arc(this.pxOf(at), this.markHeight(at), 5.5, 0, 7);
    pen.stroke();
  }

  /* ---- axis */

  /* Places and labels of ticks, and what the labels count from. */
  ticks() {
    return this.axis === 'time' ? this.timeTicks() : this.stepTicks();
  }

  timeTicks() {
    const wish = (this.to - this.from) / Math.max(2, (this.width - GUTTER) / 110);
    const power = 10 ** Math.floor(Math.log10(wish));
    const step = power * [1, 2, 5, 10].find(f => f * power >= wish);
    const base = Math.floor(this.from / (step * 1000)) * step * 1000, list = [];
    for (let t = Math.ceil(this.from / step) * step; t <= this.to; t += step) {
      const offset = t - base;
      list.push([this.px(t), base ? `+${duration(offset, 5)}` : duration(t, 5)]);
    }
    return {base, list};
  }

  stepTicks() {
    const [first, last] = this.range(), list = [];
    for (let i = first, free = GUTTER + 40; i < last; i++) {
      if (!this.shown[i] || this.pxOf(i) < free) continue;
      list.push([this.pxOf(i), seconds(this.run.time[i])]);
      free = this.pxOf(i) + 124;
    }
    return {base: 0, list};
  }

  drawGrid() {
    this.pen.fillStyle = this.colour.rule;
    this.pen.globalAlpha = 0.6;
    for (const [x] of this.ticks().list) this.pen.fillRect(Math.round(x), AXIS, 1, this.height);
    this.pen.globalAlpha = 1;
  }

  drawAxis() {
    const pen = this.pen, {base, list} = this.ticks();
    pen.fillStyle = this.colour.back;
    pen.fillRect(0, 0, this.width, AXIS);
    pen.fillStyle = this.colour.rule;
    pen.fillRect(0, AXIS - 1, this.width, 1);
    pen.font = '11px ' + FONT;
    pen.textBaseline = 'middle';
    pen.textAlign = 'center';
    pen.fillStyle = this.colour.muted;
    for (const [x, label] of list) {
      const half = pen.measureText(label).width / 2;
      if (x - half > GUTTER && x + half < this.width) pen.fillText(label, x, AXIS / 2);
    }
    pen.textAlign = 'left';
    pen.fillStyle = this.colour.ink;
    pen.font = '600 11px ' + FONT;
    const from = base ? `${+(base / 1e9).toPrecision(12)}\u2009s` : 'Time';
    pen.fillText(this.axis === 'time' ? from : 'Seconds', 12, AXIS / 2);
  }

  drawGutter() {
    const pen = this.pen;
    pen.save();
    pen.beginPath();
    pen.rect(0, AXIS, GUTTER, this.height - AXIS);
    pen.clip();
    pen.fillStyle = this.colour.back;
    pen.fillRect(0, AXIS, GUTTER, this.height);
    pen.font = '600 12px ' + FONT;
    pen.textBaseline = 'middle';
    pen.textAlign = 'left';
    for (let node = 0; node < this.run.nodes; node++) {
      pen.fillStyle = node === this.focus ? this.colour.select : this.colour.ink;
      pen.fillText(`node ${node}`, 12, this.line(node));
    }
    pen.fillStyle = this.colour.rule;
    pen.fillRect(GUTTER - 1, AXIS, 1, this.height);
    pen.restore();
  }

  /* ---- what is under the pointer: a record, or -1 */

  find(x, y) {
    if (x < GUTTER) return -1;
    const mark = this.findMark(x, y);
    if (mark >= 0) return mark;
    const task = this.findTask(x, y);
    return task >= 0 ? task : this.findArrow(x, y);
  }

  findMark(x, y) {
    const first = lowerBound(this.x, this.at(x - 7));
    let best = -1, nearest = 50;
    for (let i = first; i < this.run.count && this.pxOf(i) <= x + 7; i++) {
      if (!this.shown[i]) continue;
      const rise = this.run.group(i) === FAULTS ? 5 : 0;
      const far = (this.pxOf(i) - x) ** 2 + (this.markHeight(i) - rise - y) ** 2;
      if (far < nearest) [best, nearest] = [i, far];
    }
    return best;
  }

  findTask(x, y) {
    for (const index of this.tasksInSight()) {
      const task = this.run.tasks[index], top = this.taskTop(task);
      if (y < top - 1 || y > top + this.track - 1 || this.pxOf(task.phase[0]) > x + 2) continue;
      if (task.end >= 0 && this.pxOf(task.end) < x - 2) continue;
      return task.phase[0];
    }
    return -1;
  }

  findArrow(x, y) {
    let best = -1, nearest = 4.5;
    for (const index of this.arrowsInSight()) {
      const arrow = this.run.arrows[index], [x1, y1, x2, y2] = this.arrowLine(arrow);
      const dx = x2 - x1, dy = y2 - y1;
      const part = ((x - x1) * dx + (y - y1) * dy) / (dx * dx + dy * dy || 1);
      const along = Math.max(0, Math.min(1, part));
      const far = Math.hypot(x1 + along * dx - x, y1 + along * dy - y);
      if (far < nearest) [best, nearest] = [arrow.from >= 0 ? arrow.from : arrow.to, far];
    }
    return best;
  }

  bandColour(kind) {
    return this.colour[BAND_COLOURS[kind]];
  }

  /* A sample for the legend, 26 by 14: a word, or the kind of a band. */
  drawSample(pen, what) {
    const colour = this.colour;
    pen.lineWidth = 1.2;
    pen.strokeStyle = colour.message;
    pen.fillStyle = typeof what === 'number' ? this.bandColour(what) : colour.task;
    if (what === 'message' || what === 'lost') {
      pen.beginPath(), pen.moveTo(1, 7), pen.lineTo(what === 'lost' ? 16 : 24, 7), pen.stroke();
      if (what === 'message') this.drawHeads(pen, [[1, 7, 25, 7]]);
      else this.drawCrosses(pen, [[18, 7]]);
    } else if (what === 'fault') {
      pen.fillStyle = colour.fault;
      this.drawMark(pen, FAULTS, 13, 11);
    } else if (typeof what === 'string') {
      const height = {runs: 5, blocks: 2, waits: 1}[what];
      pen.globalAlpha = {runs: 0.95, blocks: 0.5, waits: 0.5}[what];
      pen.fillRect(1, 7 - height / 2, 24, height);
    } else if (what > APART) {
      pen.fillRect(1, 5, 24, STRIP);
    } else {
      pen.globalAlpha = 0.15;
      pen.fillRect(0, 0, 26, 14);
      pen.globalAlpha = 0.6;
      pen.fillStyle = this.hatch(this.bandColour(what), HATCHES[what]);
      pen.fillRect(0, 0, 26, 14);
    }
  }

  /* What is wrong there, in words. */
  bandsAt(x, y) {
    const node = this.laneAt(y);
    return this.run.bands.filter(band => {
      const [x1, x2] = this.bandSpan(band);
      return (band.node === node || band.node < 0) && x >= x1 && x <= x2;
    });
  }
}
