/* start.js - begins: reads the data, makes the page. */

const page = new Page(new Run(JSON.parse(get('data').textContent)));
if (location.search === '?selftest') {
  const result = put('pre');
  result.id = 'selftest';
  try {
    result.textContent = selftest(page);
  } catch (error) {
    result.textContent = `${error.stack}\n0 passed, 1 failed`;
  }
  document.body.append(result);
}
