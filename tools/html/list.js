/* list.js - the events that are shown as lines of text; only those in sight are in the page. */

const ROW = 22;

class List {
  constructor(box, rows, run, choose) {
    Object.assign(this, {box, rows, run, choose, records: [], selected: -1});
    box.addEventListener('scroll', () => this.draw());
    rows.addEventListener('click', event => {
      const row = event.target.closest('.row');
      if (row) choose(+row.dataset.record);
    });
  }

  setRecords(records, groupNames) {
    this.records = records;
    this.groupNames = groupNames;
    this.rows.style.height = `${records.length * ROW}px`;
    this.draw();
  }

  /* Marks a record; scrolls to it, in the middle if it is far away. */
  select(record) {
    const at = lowerBound(this.records, record), top = at * ROW, height = this.box.clientHeight;
    this.selected = record;
    if (record >= 0 && (top < this.box.scrollTop || top + ROW > this.box.scrollTop + height))
      this.box.scrollTop = top - height / 2;
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW) - 4);
    const last = Math.min(this.records.length, first + Math.ceil(this.box.clientHeight / ROW) + 8);
    const rows = [];
    for (let at = first; at < last; at++) rows.push(this.row(at));
    this.rows.replaceChildren(...rows);
    const marked = this.selected >= 0 && document.getElementById(`row${this.selected}`);
    if (marked) this.box.setAttribute('aria-activedescendant', marked.id);
    else this.box.removeAttribute('aria-activedescendant');
  }

  row(at) {
    const record = this.records[at], run = this.run, row = document.createElement('div');
    row.className = record === run.failed ? 'row failed' : 'row';
    row.id = `row${record}`;
    row.style.top = `${at * ROW}px`;
    row.dataset.record = record;
    row.title = run.text(record);
    row.setAttribute('role', 'option');
    row.setAttribute('aria-selected', record === this.selected);
    row.setAttribute('aria-posinset', at + 1);
    row.setAttribute('aria-setsize', this.records.length);
    const dot = put('i');
    dot.style.background = `var(--${COLOURS[run.group(record)]})`;
    row.append(put('time', seconds(run.time[record])), dot, put('b', run.who(record)),
               put('span', run.text(record)));
    return row;
  }
}
