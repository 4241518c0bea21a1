/* page.js - the controls around the diagram, and what they do. */

const FEW = 200; /* so many events are shown all at once */

function get(id) {
  return document.getElementById(id);
}

/* A new element with a text. */
function put(tag, text = '') {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}

class Page {
  constructor(run) {
    this.run = run;
    this.filter = new Filter();
    this.axis = run.failed >= 0 ? 'steps' : 'time';
    this.diagram = new Diagram(get('diagram'), run);
    this.list = new List(get('list'), get('rows'), run, i => this.select(i, true));
    this.selected = -1;
    this.putFacts();
    this.putGroups();
    this.putNodes();
    this.listen();
    this.listenToPointer();
    this.resize();
    this.refilter();
    this.start();
  }

  /* ---- what is said once */

  putFacts() {
    const run = this.run, first = run.time[0] || 0, last = run.time[run.count - 1] || 0;
    const facts = [['seed', run.seed], ['nodes', run.nodes],
                   ['events', run.events.toLocaleString('en')],
                   ['time', `${seconds(first)} \u2013 ${seconds(last)} s`], ['hash', run.hash]];
    if (run.dropped)
      facts.push(['not kept', `the first ${run.dropped.toLocaleString('en')} events`]);
    for (const [name, value] of facts) {
      const pair = put('div');
      pair.append(put('dt', name), put('dd', value));
      get('facts').append(pair);
    }
    if (run.failure) this.putFailure();
  }

  putFailure() {
    const {check, why, event} = this.run.failure, button = put('button', `Show event #${event}`);
    button.id = 'showFailure';
    button.addEventListener('click', () => this.showFailure());
    get('failure').append(put('b', `check \u201c${check}\u201d failed`), put('span', why), button);
    get('failure').hidden = false;
  }

  putGroups() {
    const counts = GROUPS.map(() => 0);
    for (let i = 0; i < this.run.count; i++) counts[this.run.group(i)]++;
    GROUPS.forEach((name, group) => {
      const button = put('button'), dot = put('i');
      dot.style.color = `var(--${COLOURS[group]})`;
      button.append(dot, put('span', name), put('small', counts[group].toLocaleString('en')));
      button.setAttribute('aria-pressed', true);
      button.dataset.group = group;
      button.addEventListener('click', () => this.toggle(group));
      get('groups').append(button);
    });
  }

  putNodes() {
    get('node').append(new Option('all nodes', -1));
    for (let node = 0; node < this.run.nodes; node++)
      get('node').append(new Option(`node ${node}`, node));
  }

  /* Only what the run has. */
  putLegend() {
    const has = kind => this.run.bands.some(band => band.kind === kind), diagram = this.diagram;
    const entries = [['message', pen => diagram.drawSample(pen, 'message')],
                     ['lost', pen => diagram.drawSample(pen, 'lost')],
                     ['body runs', pen => diagram.drawSample(pen, 'runs')],
                     ['blocks', pen => diagram.drawSample(pen, 'blocks')],
                     ['waits', pen => diagram.drawSample(pen, 'waits')],
                     ['fault', pen => diagram.drawSample(pen, 'fault')]];
    this.run.bandNames.forEach((name, kind) => {
      if (has(kind)) entries.push([name, pen => diagram.drawSample(pen, kind)]);
    });
    get('legend').replaceChildren(...entries.map(([name, draw]) => {
      const item = put('li'), canvas = put('canvas'), ratio = window.devicePixelRatio || 1;
      [canvas.width, canvas.height] = [26 * ratio, 14 * ratio];
      canvas.getContext('2d').scale(ratio, ratio);
      draw(canvas.getContext('2d'));
      item.append(canvas, put('span', name));
      return item;
    }));
  }

  /* ---- what is shown */

  /* The same events stay in sight, or all if they are few. */
  refilter() {
    const d = this.diagram, run = this.run, [first, last] = d.range(), whole = this.isWhole();
    d.setFilter(this.filter.apply(run), this.axis);
    d.focus = this.filter.node;
    if (whole || last <= first || d.list.length <= FEW) this.fit();
    else d.show(d.x[first], d.x[last - 1]);
    this.list.setRecords(d.list);
    const count = d.list.length.toLocaleString('en');
    get('found').textContent = d.list.length === run.count
      ? `${count} events` : `${count} of ${run.count.toLocaleString('en')} events`;
    for (const button of get('groups').children)
      button.setAttribute('aria-pressed', this.filter.groups[button.dataset.group]);
    get('steps').setAttribute('aria-pressed', this.axis === 'steps');
    get('time').setAttribute('aria-pressed', this.axis === 'time');
    this.redraw();
  }

  isWhole() {
    const d = this.diagram;
    return d.from <= d.least && d.to >= d.most;
  }

  toggle(group) {
    this.filter.groups[group] = !this.filter.groups[group];
    this.refilter();
  }

  setWords(words) {
    get('words').value = this.filter.words = words;
    this.refilter();
  }

  setNode(node) {
    this.filter.node = node;
    get('node').value = node;
    this.refilter();
  }

  setAxis(axis) {
    this.axis = axis;
    this.refilter();
  }

  /* ---- where one looks */

  fit() {
    const d = this.diagram, rim = (d.most - d.least) * 0.02;
    d.show(d.least - rim, d.most + rim);
    this.redraw();
  }

  zoom(factor, px = (GUTTER + this.diagram.width) / 2) {
    const d = this.diagram, at = d.at(px), width = (d.to - d.from) * factor;
    const from = at - (at - d.from) * factor;
    d.show(from, from + width);
    this.redraw();
  }

  pan(pixels) {
    const d = this.diagram, by = pixels * (d.to - d.from) / (d.width - GUTTER);
    d.show(d.from + by, d.to + by);
    this.redraw();
  }

  /* Puts a record into the middle, with so many others around it. */
  centre(record, around = 0) {
    const d = this.diagram, x = d.x[record] || 0, at = lowerBound(d.list, record);
    let half = (d.to - d.from) / 2;
    if (around && d.list.length) {
      const first = d.list[Math.max(0, at - around)];
      const last = d.list[Math.min(d.list.length - 1, at + around)];
      half = Math.max(x - d.x[first], d.x[last] - x) || half;
    }
    d.show(x - half, x + half);
    this.redraw();
  }

  select(record, centre = false) {
    const d = this.diagram;
    this.selected = d.selected = record;
    if (centre && (d.x[record] < d.from || d.x[record] > d.to)) this.centre(record);
    if (this.run.node[record] >= 0) this.scrollTo(this.run.node[record]);
    this.list.select(record);
    this.putDetails(record);
    this.redraw();
  }

  scrollTo(node) {
    const d = this.diagram, top = d.top(node);
    if (top < AXIS) d.scrollBy(top - AXIS);
    else if (top + d.lane > d.height) d.scrollBy(top + d.lane - d.height);
  }

  /* The next shown event after the selected one, or after the left edge; or the one before. */
  step(by) {
    const d = this.diagram, list = d.list;
    if (!list.length) return;
    const start = this.selected >= 0 ? this.selected : d.range()[0] - (by > 0);
    const at = lowerBound(list, by > 0 ? start + 1 : start) + (by > 0 ? 0 : -1);
    this.select(list[Math.max(0, Math.min(list.length - 1, at))], true);
  }

  /* "#1234": that event; a number: the first one at that many seconds. False: it is neither. */
  seek(text) {
    const parts = /^\s*(#?)\s*([\d.,\s\u2009]+?)\s*s?\s*$/.exec(text), run = this.run;
    const value = parts ? +parts[2].replace(/[,\s\u2009]/g, '') : NaN;
    if (!isFinite(value) || !run.count) return false;
    const record = parts[1] ? run.recordOf(value) : run.recordAt(value * 1e9);
    this.select(Math.max(0, record), false);
    this.centre(this.selected, (this.diagram.to >= this.diagram.most && this.isWhole()) ? 60 : 0);
    return true;
  }

  showFailure() {
    if (this.run.failed < 0) return;
    this.select(this.run.failed);
    this.centre(this.run.failed, 50);
  }

  /* ---- details */

  putDetails(record) {
    const box = get('details'), run = this.run;
    if (record < 0) {
      box.replaceChildren(put('p', 'Select an event in the diagram or in the list.'),
                          put('pre', run.spec));
      return;
    }
    const list = put('dl'), task = run.tasks[run.taskOf[record]];
    const arrow = run.arrows[run.arrowOf[record]];
    const add = (name, ...content) => {
      const value = put('dd');
      value.append(...content);
      list.append(put('dt', name), value);
    };
    if (arrow) add('message', run.journey(arrow), ...this.otherEnd(arrow, record));
    if (task) this.addTask(task, add);
    if (run.bands.length) this.addBands(record, add);
    box.replaceChildren(
      put('h2', run.text(record)),
      put('p', `${run.who(record)}, ${seconds(run.time[record])} s, event #${run.number[record]}`),
      list);
  }

  link(text, action) {
    const button = put('button', text);
    button.className = 'link';
    button.addEventListener('click', action);
    return button;
  }

  otherEnd(arrow, record) {
    const other = arrow.from === record ? arrow.to : arrow.from;
    if (other < 0) return [];
    return [' ', this.link(`#${this.run.number[other]}`, () => this.select(other, true))];
  }

  addTask(task, add) {
    const run = this.run, begun = run.time[task.phase[0]];
    add('task', `${task.id}, method ${task.method}` + (task.pool ? ` of pool ${task.pool}` : ''));
    add('worker', String(task.worker));
    if (task.key) {
      const follow = () => this.setWords(`key:${task.key.split('/')[0]}`);
      add('key', `${task.key} `, this.link('follow', follow));
    }
    if (task.end >= 0)
      add('result', `${task.result} after ${duration(run.time[task.end] - begun)} `,
          this.link(`#${run.number[task.end]}`, () => this.select(task.end, true)));
    else add('result', 'not yet');
  }

  addBands(record, add) {
    const node = this.run.node[record];
    const bands = this.run.bands.filter(b => (b.node === node || b.node < 0) && b.from <= record &&
                                             (b.to < 0 || b.to > record));
    if (bands.length) add('wrong', this.bandsText(bands));
  }

  bandsText(bands) {
    const peer = band => band.peer >= 0 ? ` to node${band.peer}` : '';
    return bands.map(band => this.run.bandNames[band.kind] + peer(band)).join(', ');
  }

  tip(x, y) {
    const box = get('tip'), d = this.diagram, record = d.find(x, y), bands = d.bandsAt(x, y);
    d.hovered = record;
    box.hidden = record < 0 && !bands.length;
    if (box.hidden) return;
    const run = this.run, wrong = this.bandsText(bands);
    if (record >= 0) {
      const place = [`${seconds(run.time[record])} s`, `#${run.number[record]}`];
      if (wrong) place.push(wrong);
      box.replaceChildren(put('span', `${run.who(record)}: ${run.text(record)}`),
                          put('small', place.join(' \u00b7 ')));
    } else {
      box.replaceChildren(put('span', wrong));
    }
    const left = x + 16 + box.offsetWidth > d.width ? x - box.offsetWidth - 10 : x + 16;
    box.style.left = `${Math.max(4, left)}px`;
    box.style.top = `${Math.max(4, Math.min(y + 14, d.height - box.offsetHeight - 4))}px`;
  }

  /* ---- drawing, at most once a frame */

  redraw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => this.drawNow());
  }

  drawNow() {
    this.waiting = false;
    this.diagram.draw();
    this.drawOverview();
  }

  resize() {
    const canvas = get('diagram'), overview = get('overview'), ratio = window.devicePixelRatio || 1;
    this.diagram.setSize(canvas.clientWidth, canvas.clientHeight);
    overview.width = Math.round(overview.clientWidth * ratio);
    overview.height = Math.round(overview.clientHeight * ratio);
    overview.getContext('2d').setTransform(ratio, 0, 0, ratio, 0, 0);
    this.putLegend();
    this.drawNow();
    this.list.draw();
  }

  /* The whole run: how much happens, what was wrong, and what the diagram shows of it. */
  drawOverview() {
    const canvas = get('overview'), pen = canvas.getContext('2d'), d = this.diagram;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    const px = x => GUTTER + (x - d.least) / (d.most - d.least) * (width - GUTTER - 12);
    pen.clearRect(0, 0, width, height);
    const bins = new Uint32Array(Math.ceil(width / 4) + 1);
    for (const i of d.list) bins[Math.floor(px(d.x[i]) / 4)]++;
    const high = Math.log(1 + bins.reduce((a, b) => Math.max(a, b), 1));
    pen.fillStyle = d.colour.faint;
    for (let b = 0; b < bins.length; b++) {
      const bar = Math.log(1 + bins[b]) / high * (height - 16);
      if (bins[b]) pen.fillRect(b * 4, height - 4 - bar, 3, bar);
    }
    pen.globalAlpha = 0.6;
    for (const band of this.run.bands) {
      const x1 = band.from < 0 ? GUTTER : px(d.x[band.from]);
      const x2 = band.to < 0 ? width - 12 : px(d.x[band.to]);
      pen.fillStyle = d.bandColour(band.kind);
      pen.fillRect(x1, 4, Math.max(1, x2 - x1), 4);
    }
    pen.globalAlpha = 1;
    if (this.run.failed >= 0) {
      pen.fillStyle = d.colour.fault;
      pen.fillRect(px(d.x[this.run.failed]) - 1, 0, 2, height);
    }
    pen.fillStyle = pen.strokeStyle = d.colour.select;
    const left = Math.max(GUTTER, px(d.from)), right = Math.min(width - 12, px(d.to));
    pen.globalAlpha = 0.1;
    if (!this.isWhole()) pen.fillRect(left, 0, Math.max(2, right - left), height);
    pen.globalAlpha = 1;
    if (!this.isWhole()) pen.strokeRect(left + 0.5, 0.5, Math.max(2, right - left) - 1, height - 1);
    pen.fillStyle = d.colour.muted;
    pen.font = '11px ' + FONT;
    pen.textBaseline = 'middle';
    pen.fillText('Whole run', 12, height / 2);
  }

  /* ---- input */

  listen() {
    const on = (id, what, action) => get(id).addEventListener(what, action);
    on('words', 'input', () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.setWords(get('words').value), 150);
    });
    on('node', 'change', () => this.setNode(+get('node').value));
    on('steps', 'click', () => this.setAxis('steps'));
    on('time', 'click', () => this.setAxis('time'));
    on('in', 'click', () => this.zoom(0.5));
    on('out', 'click', () => this.zoom(2));
    on('fit', 'click', () => this.fit());
    on('previous', 'click', () => this.step(-1));
    on('next', 'click', () => this.step(1));
    on('seeker', 'submit', event => {
      event.preventDefault();
      get('seek').setAttribute('aria-invalid', !this.seek(get('seek').value));
    });
    on('list', 'keydown', event => {
      const by = {ArrowDown: 1, ArrowUp: -1}[event.key];
      if (by) event.preventDefault(), this.step(by);
    });
    document.addEventListener('keydown', event => this.key(event));
    window.addEventListener('resize', () => this.resize());
    window.addEventListener('hashchange', () => this.start());
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.recolour());
    window.addEventListener('beforeprint', () => this.print(true));
    window.addEventListener('afterprint', () => this.print(false));
  }

  /* Paper is white. */
  print(on) {
    if (on) document.documentElement.dataset.theme = 'light';
    else delete document.documentElement.dataset.theme;
    if (on) this.diagram.setSize(1040, Math.min(430, AXIS + this.run.nodes * 168));
    if (on) this.recolour();
    else this.resize(), this.recolour();
  }

  recolour() {
    this.diagram.readColours();
    this.putLegend();
    this.drawNow();
  }

  key(event) {
    const typing = /^(INPUT|SELECT)$/.test(event.target.tagName);
    if (event.key === 'Escape') return event.target.blur(), this.select(-1);
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const far = this.diagram.width / 5;
    const action = {
      '+': () => this.zoom(0.5), '=': () => this.zoom(0.5), '-': () => this.zoom(2),
      '0': () => this.fit(), ArrowLeft: () => this.pan(-far), ArrowRight: () => this.pan(far),
      n: () => this.step(1), p: () => this.step(-1), f: () => this.showFailure(),
      '/': () => get('words').focus(), g: () => get('seek').focus(),
      Home: () => this.pan(-1e9), End: () => this.pan(1e9),
    }[event.key];
    if (!action || (event.target.id === 'list' && /Home|End/.test(event.key))) return;
    event.preventDefault();
    action();
  }

  listenToPointer() {
    const canvas = get('diagram'), overview = get('overview'), d = this.diagram;
    let grip = null;
    canvas.addEventListener('wheel', event => {
      event.preventDefault();
      if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY))
        this.pan(event.deltaX || event.deltaY);
      else if (event.offsetX < GUTTER) d.scrollBy(event.deltaY), this.redraw();
      else this.zoom(Math.exp(event.deltaY * 0.0018), event.offsetX);
    }, {passive: false});
    canvas.addEventListener('pointerdown', event => {
      grip = {x: event.offsetX, y: event.offsetY, moved: false};
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener('pointermove', event => {
      if (!grip) {
        this.tip(event.offsetX, event.offsetY);
        return this.redraw();
      }
      const dx = event.offsetX - grip.x, dy = event.offsetY - grip.y;
      if (!grip.moved && Math.hypot(dx, dy) < 4) return;
      grip = {x: event.offsetX, y: event.offsetY, moved: true};
      canvas.classList.add('drag');
      get('tip').hidden = true;
      d.scrollBy(-dy);
      this.pan(-dx);
    });
    canvas.addEventListener('pointerup', event => {
      if (grip && !grip.moved) this.click(event.offsetX, event.offsetY);
      grip = null;
      canvas.classList.remove('drag');
    });
    canvas.addEventListener('dblclick', event => this.zoom(0.5, event.offsetX));
    canvas.addEventListener('pointerleave', () => {
      get('tip').hidden = true;
      d.hovered = -1;
      this.redraw();
    });
    overview.addEventListener('pointerdown', event => {
      overview.setPointerCapture(event.pointerId);
      this.lookAt(event.offsetX);
    });
    overview.addEventListener('pointermove', event => event.buttons && this.lookAt(event.offsetX));
  }

  /* A node's name takes its events only, and all again. */
  click(x, y) {
    const node = this.diagram.laneAt(y);
    if (x >= GUTTER) this.select(this.diagram.find(x, y));
    else if (node >= 0) this.setNode(this.filter.node === node ? -1 : node);
  }

  /* A place of the overview comes to the middle. */
  lookAt(px) {
    const d = this.diagram, width = get('overview').clientWidth - GUTTER - 12;
    const x = d.least + (px - GUTTER) / width * (d.most - d.least), half = (d.to - d.from) / 2;
    d.show(x - half, x + half);
    this.redraw();
  }

  /* ---- the beginning: the failure, or everything; or what the address asks for, as in
   * #axis=time&words=node1&event=1234&around=20&theme=dark */
  start() {
    const wish = new URLSearchParams(location.hash.slice(1));
    if (wish.get('theme')) document.documentElement.dataset.theme = wish.get('theme');
    if (wish.get('axis')) this.axis = wish.get('axis') === 'time' ? 'time' : 'steps';
    if (wish.has('words')) get('words').value = this.filter.words = wish.get('words');
    if (wish.has('node')) get('node').value = this.filter.node = +wish.get('node');
    this.recolour();
    this.refilter();
    this.fit();
    this.putDetails(-1);
    this.showFailure();
    if (wish.has('event')) {
      this.select(this.run.recordOf(+wish.get('event')));
      this.centre(this.selected, +wish.get('around') || 40);
    }
    if (wish.has('fit')) this.fit();
  }
}
