'use strict';
/* model.js - the run as the page holds it: records, messages, tasks, bands; filters; axes. */

const GROUPS = ['Messages', 'Tasks', 'Calls', 'Files', 'Lives', 'Faults'];
const COLOURS = ['message', 'task', 'call', 'file', 'life', 'fault']; /* names in page.css */
const MESSAGES = 0, TASKS = 1, FAULTS = 5;
const WAITS = 0, RUNS = 1;
const DOWN = 0, STARTING = 1, PAUSED = 2, APART = 3; /* bands that fill a lane; others are strips */
const TRACKS = 8; /* most tasks of a node side by side */
const BLOCK = 256; /* records between two lists of what is open */

/* Numbers that were written as what they grow by. */
function sums(deltas) {
  const out = new Float64Array(deltas.length);
  for (let i = 0, sum = 0; i < deltas.length; i++) out[i] = sum += deltas[i];
  return out;
}

/* The first of a sorted list that is not below a value. */
function lowerBound(list, value) {
  let low = 0, high = list.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (list[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/* 1234567 ns as "0.001 234 567". */
function seconds(ns) {
  const whole = Math.floor(ns / 1e9), part = String(Math.round(ns - whole * 1e9)).padStart(9, '0');
  return `${whole}.${part.slice(0, 3)}\u2009${part.slice(3, 6)}\u2009${part.slice(6)}`;
}

/* In the largest unit that fits, with so many digits. */
function duration(ns, digits = 3) {
  const units = [[1e9, 's'], [1e6, 'ms'], [1e3, '\u00b5s'], [1, 'ns']];
  const [size, unit] = units.find(([least]) => ns >= least) || units[3];
  return `${+(ns / size).toPrecision(digits)}\u2009${unit}`;
}

class Run {
  constructor(data) {
    Object.assign(this, {title: data.title, spec: data.spec, seed: data.seed, hash: data.hash,
                         events: data.events, dropped: data.dropped, nodes: data.nodes,
                         failure: data.failure, bandNames: data.bandNames});
    this.count = data.number.length;
    this.number = sums(data.number);
    this.time = sums(data.time);
    this.node = Int16Array.from(data.node);
    this.form = Uint16Array.from(data.form);
    this.forms = data.forms.map(([group, , text]) => ({group, parts: text.split('\x01')}));
    this.values = data.values;
    this.valueAt = new Uint32Array(this.count + 1);
    for (let i = 0; i < this.count; i++)
      this.valueAt[i + 1] = this.valueAt[i] + this.forms[this.form[i]].parts.length - 1;
    this.readArrows(data.arrows);
    this.readTasks(data.tasks);
    this.bands = [];
    for (let i = 0; i < data.bands.length; i += 5) {
      const [kind, node, peer, from, to] = data.bands.slice(i, i + 5);
      this.bands.push({kind, node, peer, from, to});
    }
    this.failed = this.failure && this.count ? this.recordOf(this.failure.event) : -1;
    this.openArrows = this.openAtBlocks(this.arrows, a => a.from < 0 ? a.to : a.from, a => a.to);
    this.openTasks = this.openAtBlocks(this.tasks, t => t.phase[0], t => t.end);
  }

  readArrows(flat) {
    this.arrows = [];
    this.arrowOf = new Int32Array(this.count).fill(-1);
    for (let i = 0; i < flat.length; i += 5) {
      const arrow = {from: flat[i], to: flat[i + 1], sender: flat[i + 2], receiver: flat[i + 3],
                     lost: flat[i + 4]};
      if (arrow.from >= 0) this.arrowOf[arrow.from] = this.arrows.length;
      if (arrow.to >= 0) this.arrowOf[arrow.to] = this.arrows.length;
      this.arrows.push(arrow);
    }
  }

  readTasks(rows) {
    this.taskOf = new Int32Array(this.count).fill(-1);
    const tracks = Array.from({length: this.nodes}, () => []);
    this.tasks = rows.map(([node, worker, id, key, pool, method, end, result, phase], index) => {
      for (let i = 0; i < phase.length; i += 2) this.taskOf[phase[i]] = index;
      if (end >= 0 && this.taskOf[end] < 0) this.taskOf[end] = index;
      const busy = tracks[node];
      let track = busy.findIndex(until => until >= 0 && until <= phase[0]);
      if (track < 0) track = Math.min(busy.length, TRACKS - 1);
      busy[track] = end;
      return {node, worker, id, key, pool, method, end, result, phase, track};
    });
    this.tracks = Math.max(1, ...tracks.map(busy => busy.length));
  }

  /* For every block of records, which of these things are open where it begins. */
  openAtBlocks(things, from, to) {
    const blocks = Array.from({length: Math.ceil(this.count / BLOCK) + 1}, () => []);
    things.forEach((thing, index) => {
      const last = to(thing) < 0 ? this.count : to(thing);
      for (let b = Math.floor(from(thing) / BLOCK) + 1; b * BLOCK <= last; b++)
        blocks[b].push(index);
    });
    return blocks;
  }

  text(i) {
    const parts = this.forms[this.form[i]].parts;
    let text = parts[0];
    for (let p = 1; p < parts.length; p++) text += this.values[this.valueAt[i] + p - 1] + parts[p];
    return text;
  }

  group(i) {
    return this.forms[this.form[i]].group;
  }

  key(i) {
    const task = this.tasks[this.taskOf[i]];
    return task ? task.key : '';
  }

  who(i) {
    return this.node[i] < 0 ? 'all' : `node${this.node[i]}`;
  }

  /* The record of an event's number, or the last one before it. */
  recordOf(number) {
    return Math.max(0, Math.min(this.count, lowerBound(this.number, number + 1)) - 1);
  }

  recordAt(time) {
    return Math.min(this.count - 1, lowerBound(this.time, time));
  }

  /* How a message went, in words: from, to, duration. */
  journey(arrow) {
    const way = `node${arrow.sender} \u2192 node${arrow.receiver}`;
    if (arrow.from < 0) return `${way}, sent before this begins`;
    if (arrow.to < 0) return `${way}, still under way`;
    return `${way}, ${arrow.lost ? 'lost' : 'arrives'} after ` +
           duration(this.time[arrow.to] - this.time[arrow.from]);
  }
}

/* What is shown: groups that are on, a node or all (-1), and words. A word must be in the text of
 * an event, with its node and key; "-word" must not; "key:node0.3" takes all tasks of that key. */
class Filter {
  constructor() {
    this.groups = GROUPS.map(() => true);
    this.node = -1;
    this.words = '';
  }

  parse() {
    const words = this.words.toLowerCase().split(/\s+/).filter(Boolean);
    const keys = words.filter(w => w.startsWith('key:')).map(w => w.slice(4));
    const plain = words.filter(w => !w.startsWith('key:'));
    return {keys, wanted: plain.filter(w => w[0] !== '-'),
            unwanted: plain.filter(w => w[0] === '-' && w.length > 1).map(w => w.slice(1))};
  }

  touchesNode(run, i) {
    const arrow = run.arrows[run.arrowOf[i]];
    return this.node < 0 || run.node[i] < 0 || run.node[i] === this.node ||
           (arrow && (arrow.sender === this.node || arrow.receiver === this.node));
  }

  passes(run, i, words) {
    if (!this.groups[run.group(i)] || !this.touchesNode(run, i)) return false;
    if (!this.words) return true;
    const key = run.key(i);
    if (!words.keys.every(k => key === k || key.startsWith(k + '/'))) return false;
    if (!words.wanted.length && !words.unwanted.length) return true;
    const text = `${run.who(i)}: ${run.text(i)} ${key}`.toLowerCase();
    return words.wanted.every(w => text.includes(w)) && !words.unwanted.some(w => text.includes(w));
  }

  /* One byte a record: 1 if it is shown. A message is shown with both its ends. */
  apply(run) {
    const shown = new Uint8Array(run.count), words = this.parse();
    for (let i = 0; i < run.count; i++) {
      if (shown[i] || !this.passes(run, i, words)) continue;
      const arrow = run.arrows[run.arrowOf[i]];
      shown[i] = 1;
      if (arrow && arrow.from >= 0) shown[arrow.from] = 1;
      if (arrow && arrow.to >= 0) shown[arrow.to] = 1;
    }
    return shown;
  }
}

/* Where each record is along the diagram. "time": nanoseconds. "steps": what is shown stands at
 * least a step apart, and long times are hardly longer than short ones. */
function layOut(run, shown, axis) {
  if (axis === 'time') return run.time;
  const x = new Float64Array(run.count);
  let at = 0, last = -1;
  for (let i = 0; i < run.count; i++) {
    if (shown[i]) {
      const gap = last < 0 ? 0 : run.time[i] - run.time[last];
      if (last >= 0) at += gap > 0 ? 1 + 0.8 * Math.log10(1 + gap / 1000) : 0.4;
      last = i;
    }
    x[i] = at;
  }
  return x;
}
