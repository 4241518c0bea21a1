/* selftest.js - opened with "?selftest" the page tries itself and says what it found. */

function selftest(page) {
  const lines = [], d = page.diagram, run = page.run;
  const check = (name, holds) => lines.push(`${holds ? 'pass' : 'FAIL'} ${name}`);
  const near = (a, b) => Math.abs(a - b) <= 1e-6 * Math.max(1, Math.abs(a), Math.abs(b));
  const press = (key, at = document.body) =>
    at.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true}));
  const first = run.failed >= 0 ? run.failed : 0;

  check('records are in order', run.time.every((t, i) => !i || t >= run.time[i - 1]));
  check('every record has a text', d.list.every(i => run.text(i).length > 0));
  check('messages arrive after they were sent',
        run.arrows.every(a => a.from < 0 || a.to < 0 || a.to > a.from));
  if (run.failed >= 0) {
    const middle = (GUTTER + d.width) / 2;
    check('the failure is selected', page.selected === run.failed);
    check('the failure is in sight', d.pxOf(first) > GUTTER && d.pxOf(first) <= d.width);
    check('the failure is in the middle, or at the end',
          Math.abs(d.pxOf(first) - middle) < 2 || d.to >= d.most);
  }

  page.fit();
  check('fit shows all', d.from <= d.least && d.to >= d.most);
  const whole = d.to - d.from, middle = (GUTTER + d.width) / 2, at = d.at(middle);
  get('in').click();
  check('zoom in halves', near(d.to - d.from, whole / 2));
  check('zoom keeps the middle', near(d.at(middle), at));
  press('+');
  check('the + key zooms', near(d.to - d.from, whole / 4));
  const from = d.from;
  press('ArrowRight');
  check('the arrow key pans', d.from > from && near(d.to - d.from, whole / 4));
  const spot = d.at(300), clientX = 300 + get('diagram').getBoundingClientRect().left;
  get('diagram').dispatchEvent(
    new WheelEvent('wheel', {deltaY: -200, clientX, clientY: 200, cancelable: true}));
  check('the wheel zooms', d.to - d.from < whole / 4);
  check('the wheel keeps what is under it', Math.abs(d.at(300) - spot) < whole / 100);
  for (let i = 0; i < 80; i++) page.zoom(0.5);
  check('zoom has an end', d.to - d.from > 0 && isFinite(d.from));
  press('0');
  check('the 0 key fits', near(d.to - d.from, whole));

  for (let group = 0; group < GROUPS.length; group++) {
    get('groups').children[group].click();
    check(`${GROUPS[group]} can be hidden`, !d.list.some(i => run.group(i) === group));
    get('groups').children[group].click();
  }
  check('and come back', d.list.length === run.count);
  page.setNode(0);
  check('one node', d.list.every(i => run.node[i] <= 0 || run.arrowOf[i] >= 0));
  page.setNode(-1);
  page.setWords('nothing-is-called-so');
  check('words that nothing has', d.list.length === 0);
  page.step(1);
  page.drawNow();
  page.setWords('begins -message');
  check('words', d.list.every(i => /begins/.test(run.text(i)) && !/message/.test(run.text(i))));
  const task = run.tasks.find(t => t.key);
  if (task) {
    const key = task.key.split('/')[0];
    page.setWords(`key:${key}`);
    check('a key', d.list.length > 0 && d.list.every(i => run.key(i).startsWith(key)));
  }
  page.setWords('');
  check('no words', d.list.length === run.count);

  const last = run.count - 1;
  check('seek to an event', page.seek(`#${run.number[last]}`) && page.selected === last);
  check('seek to a time',
        page.seek(String(run.time[0] / 1e9)) && run.time[page.selected] === run.time[0]);
  check('seek to nonsense', !page.seek('soon'));
  page.select(0);
  press('n');
  check('next event', page.selected === Math.min(1, last));
  press('p');
  check('previous event', page.selected === 0);
  press('p');
  check('none before the first', page.selected === 0);
  page.setAxis('time');
  check('time is to scale', d.x === run.time);
  page.setAxis('steps');
  check('steps never go back', d.x.every((x, i) => !i || x >= d.x[i - 1]));
  page.centre(last, 5);
  d.draw();
  check('a mark is found where it is drawn', d.find(d.pxOf(last), d.markHeight(last) - 3) >= 0);
  check('the list has the selected event', (page.select(last, true), !!get(`row${last}`)));
  check('details', get('details').textContent.includes(`#${run.number[last]}`));
  const controls = [...document.querySelectorAll('button, input, select, canvas[tabindex]')];
  check('everything has a name',
        controls.every(e => e.textContent.trim() || e.getAttribute('aria-label')));

  page.fit();
  const began = performance.now();
  for (let i = 0; i < 5; i++) page.drawNow();
  lines.push(`draws all ${run.count} events in ${((performance.now() - began) / 5).toFixed(1)} ms`);
  const failed = lines.filter(line => line.startsWith('FAIL')).length;
  lines.push(`${lines.length - 1 - failed} passed, ${failed} failed`);
  return lines.join('\n');
}
