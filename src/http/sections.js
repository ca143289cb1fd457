// The sections of the page, from top to bottom: each is made once and updated from each status (its shape: `status.json`).

import { ago, bytes, count, duration, foreign, large, memory, number, percent, short, short_bytes } from './format.js';
import { Charts } from './charts.js';
import { meaning } from './reasons.js';
import { each, make, put, Table, terms } from './tables.js';

const by_id = (id) => document.getElementById(id);

/** Rows of the workers' table until all are asked for. */
const FIRST_WORKERS = 20;
/** Over how many seconds the present rate is taken, and the one that tells how much time is left. */
const MINUTE = 60;
const QUARTER = 900;

/** Text with commands in it: every second part is one. */
const say = (element, ...parts) => {
  element.hidden = parts.length === 0;
  if (element.textContent === parts.join('')) return;
  element.replaceChildren(...parts.map((part, i) => (i % 2 ? make('code', '', part) : part)));
};

/** A second, of the steps within the last so many; null where there is none yet. */
const rate = ({ history: { points, step_seconds } }, key, seconds) => {
  const last = points.slice(-Math.ceil(seconds / step_seconds));
  return last.length === 0 ? null : last.reduce((sum, point) => sum + point[key], 0) / (last.length * step_seconds);
};

const a_second = (n) => (n === null ? '' : `${number(n)}/s in the last minute`);

const figures = () => {
  const list = by_id('figures');
  return (status) => {
    const { queue, totals, workers, dead_letters } = status;
    const at_work = workers.filter((worker) => worker.phase !== 'idle').length;
    terms(list, [
      ['Queue', large(queue.length), `${count(queue.pending)} pending`],
      ['Busy workers', count(at_work), `of ${count(workers.length)}`],
      ['Repos done', large(totals.repos), a_second(rate(status, 'repos', MINUTE))],
      ['Records written', large(totals.records), a_second(rate(status, 'records', MINUTE))],
      ['Failures', large(totals.failures), totals.retries === 1 ? '1 retry' : `${count(totals.retries)} retries`],
      ['Dead letters', large(dead_letters.length), `${count(totals.dead_letters)} of this process`, dead_letters.length > 0 ? 'bad' : ''],
    ]);
  };
};

const hour = () => {
  const a_step = (key) => (point, step) => point[key] / step;
  const charts = new Charts(by_id('charts'), [
    { title: 'Records', unit: '/s', value: a_step('records'), text: number, axis: short },
    { title: 'Repos', unit: '/s', value: a_step('repos'), text: number, axis: short },
    { title: 'Downloaded', unit: '/s', value: a_step('bytes'), text: bytes, axis: short_bytes, least: 1 },
    { title: 'Failures', unit: '/min', value: (point, step) => (point.failures * 60) / step, text: number, axis: short, kind: 'bad' },
    { title: 'Queue', unit: '', value: (point) => point.queue, text: count, axis: short, least: 1 },
    { title: 'Output', unit: '', value: (point) => point.output, text: count, axis: short, least: 1, mark: (status) => status.output.high_water_mark },
  ]);
  return (status) => charts.update(status);
};

const flow = () => {
  const parent = by_id('gauges');
  const create = () => {
    const gauge = make('div', 'gauge');
    const meter = make('div', 'meter');
    meter.append(make('div'));
    const head = make('h3');
    head.append(make('span'), make('span', 'foreign'));
    gauge.append(head, make('p', 'value'), meter, make('p', 'note'));
    return gauge;
  };
  const update = (gauge, { title, stream = '', value, note, part, of, level = '' }) => {
    const [head, shown, meter, below] = gauge.children;
    put(head.children[0], title);
    put(head.children[1], stream);
    put(shown, value);
    put(below, note);
    gauge.dataset.level = level;
    meter.hidden = of === undefined;
    if (meter.hidden) return;
    const filled = Math.min(of > 0 ? (part ?? 0) / of : 0, 1);
    meter.firstElementChild.style.width = `${100 * filled}%`;
    for (const [key, text] of [['role', 'meter'], ['aria-label', title], ['aria-valuemin', 0], ['aria-valuemax', of], ['aria-valuenow', Math.min(part ?? 0, of)], ['aria-valuetext', value]]) {
      meter.setAttribute(key, text);
    }
  };
  return (status) => {
    const { queue, output, totals, redis } = status;
    const held = status.memory;
    const full = output.length >= output.high_water_mark;
    each(parent, [
      { title: 'Queue', stream: foreign(queue.stream), value: count(queue.length), note: `${count(queue.pending)} of them pending in the group; ${count(queue.held)} held here for a worker, ${count(queue.parked)} parked here for their hosts. ${left(status)}` },
      { title: 'Output', stream: foreign(output.stream), value: `${count(output.length)} of ${count(output.high_water_mark)}`, part: output.length, of: output.high_water_mark, level: full ? 'warn' : '', note: `${percent(output.length, output.high_water_mark)} of the mark at which writing waits. Workers have waited ${duration(totals.backpressure_seconds)} for room.` },
      { title: 'Memory of repos', value: `${memory(held.used_bytes)} of ${memory(held.budget_bytes)}`, part: held.used_bytes, of: held.budget_bytes, note: `${count(totals.spills)} repos went to a file because there was no room.` },
      { title: 'Redis', value: redis.connected ? 'connected' : 'away', level: redis.connected ? '' : 'bad', note: redis.age_seconds === null ? 'No answer yet.' : `Last answer ${duration(redis.age_seconds)} ago.` },
    ], create, update);
  };
};

const left = (status) => {
  const repos = rate(status, 'repos', QUARTER);
  if (!status.queue.length || !repos) return '';
  return `About ${duration(status.queue.length / repos)} left, at the rate of this process alone.`;
};

/** What is said only of a worker that has a job. */
const busy = (text) => (worker) => (worker.phase === 'idle' ? '–' : text(worker));

const workers = () => {
  const table = new Table(by_id('workers-table'), 'Workers, the longest job first', [
    { title: 'Worker', kind: 'name', text: (worker) => foreign(worker.name) },
    { title: 'Phase', kind: 'phase', text: (worker) => foreign(worker.phase) },
    { title: 'DID', kind: 'foreign code did', text: (worker) => foreign(worker.did) },
    { title: 'Host', kind: 'foreign host', text: (worker) => foreign(worker.host) },
    { title: 'Message', kind: 'foreign code id', text: (worker) => foreign(worker.id) },
    { title: 'Bytes', kind: 'number', text: busy((worker) => bytes(worker.bytes)) },
    { title: 'Records', kind: 'number', text: busy((worker) => count(worker.records)) },
    { title: 'In phase', kind: 'number', text: busy((worker) => duration(worker.phase_seconds)) },
    { title: 'Job', kind: 'number', text: busy((worker) => duration(worker.job_seconds)) },
  ]);
  const [note, tools, phases, find, more] = ['workers-note', 'workers-tools', 'phases', 'find', 'workers-more'].map(by_id);
  let phase = null;
  let all = false;
  let status = null;

  const button = () => {
    const made = make('button');
    made.type = 'button';
    made.append(make('span'), make('span', 'count'));
    made.addEventListener('click', () => {
      phase = made.dataset.phase === '' || made.dataset.phase === phase ? null : made.dataset.phase;
      show();
    });
    return made;
  };
  const show = () => {
    if (!status) return;
    const counts = new Map(phase === null ? [] : [[phase, 0]]);
    for (const worker of status.workers) counts.set(worker.phase, (counts.get(worker.phase) ?? 0) + 1);
    const choices = [[null, status.workers.length], ...[...counts].sort(([a], [b]) => (a < b ? -1 : 1))];
    each(phases, choices, button, (made, [name, workers]) => {
      made.dataset.phase = name ?? '';
      made.setAttribute('aria-pressed', String(name === phase));
      put(made.children[0], name === null ? 'all' : foreign(name));
      put(made.children[1], count(workers));
    });
    const wanted = find.value.trim().toLowerCase();
    const chosen = status.workers
      .filter((worker) => phase === null || worker.phase === phase)
      .filter((worker) => [worker.name, worker.did, worker.host, worker.id].some((text) => (text ?? '').toLowerCase().includes(wanted)))
      .map((worker, i) => [worker, i])
      .sort(([a, i], [b, j]) => (a.phase === 'idle') - (b.phase === 'idle') || b.job_seconds - a.job_seconds || i - j)
      .map(([worker]) => worker);
    table.fill(all ? chosen : chosen.slice(0, FIRST_WORKERS), (worker) => worker.phase);
    more.hidden = chosen.length <= FIRST_WORKERS;
    put(more, all ? `Show the first ${FIRST_WORKERS} only` : `Show all ${count(chosen.length)}`);
    tools.hidden = status.workers.length <= 1;
    const idle = status.workers.every((worker) => worker.phase === 'idle');
    if (chosen.length === 0 && status.workers.length > 0) say(note, 'No worker is like that now.');
    else if (idle && status.queue.length === 0) {
      say(note, `Nothing to do: ${foreign(status.queue.stream)} is empty. Put accounts in with `, 'backfiller enqueue did:plc:…', ', or all of a host with ', 'backfiller enqueue --list-repos HOST', '.');
    } else if (idle && status.queue.length > 0) say(note, 'No worker has a job: what is in the queue waits for its host, for its next attempt, or is held by another instance.');
    else say(note);
  };
  find.addEventListener('input', show);
  more.addEventListener('click', () => {
    all = !all;
    show();
  });
  return (next) => {
    status = next;
    show();
  };
};

const hosts = () => {
  const table = new Table(by_id('hosts-table'), 'Hosts, the most waiting first', [
    { title: 'Host', kind: 'foreign', text: (host) => foreign(host.host) },
    { title: 'Waiting', kind: 'number', text: (host) => count(host.waiting) },
    { title: 'Running', kind: 'number', text: (host) => count(host.running) },
    { title: 'Cool-down', kind: 'number closed', text: (host) => (host.closed_seconds === null ? '–' : duration(host.closed_seconds)) },
  ]);
  return ({ hosts: { total, cooling, shown } }) => {
    table.fill(shown, (host) => (host.closed_seconds === null ? '' : 'closed'));
    if (total === 0) say(by_id('hosts-note'), 'No host is known yet: the first message leads to the first.');
    else {
      const rest = shown.length < total ? ` Shown are ${count(shown.length)}: those with the most waiting.` : '';
      say(by_id('hosts-note'), `${count(total)} known, ${count(cooling)} left alone for now, because they asked for it or failed too often.${rest}`);
    }
  };
};

const failures = () => {
  const parent = by_id('reasons');
  const kinds = new Map();
  const create = (reason) => {
    const details = make('details');
    const summary = details.appendChild(make('summary'));
    summary.append(make('code', 'foreign', foreign(reason)), make('span', 'count'));
    details.append(make('p', 'note', meaning(reason)));
    const table = new Table(details.appendChild(make('table')), 'The last failures for this reason', [
      { title: 'When', kind: 'when', text: ([failure, now]) => ago(failure.at_ms, now) },
      { title: 'DID', kind: 'foreign code did', text: ([failure]) => foreign(failure.did) },
      { title: 'Host', kind: 'foreign host', text: ([failure]) => foreign(failure.host) },
      { title: 'Message', kind: 'foreign code id', text: ([failure]) => foreign(failure.id) },
      { title: 'Attempt', kind: 'number', text: ([failure]) => count(failure.attempt) },
      { title: 'Error', kind: 'foreign error', text: ([failure]) => foreign(failure.error) },
    ]);
    return { details, total: summary.lastElementChild, table };
  };
  return ({ failures: list, now_ms }) => {
    say(by_id('failures-note'), ...(list.length ? [] : ['No failure since this process began.']));
    const sorted = [...list].sort((a, b) => b.count - a.count);
    for (const { reason, count: n, last } of sorted) {
      if (!kinds.has(reason)) kinds.set(reason, create(reason));
      const { total, table } = kinds.get(reason);
      put(total, count(n));
      table.fill(last.map((failure) => [failure, now_ms]));
    }
    const wanted = sorted.map(({ reason }) => kinds.get(reason).details);
    if (wanted.length !== parent.children.length || wanted.some((details, i) => details !== parent.children[i])) {
      const focus = document.activeElement;
      if (parent.children.length === 0 && wanted.length) wanted[0].open = true;
      parent.replaceChildren(...wanted);
      if (parent.contains(focus)) focus.focus({ preventScroll: true });
    }
  };
};

const letters = () => {
  const table = new Table(by_id('letters-table'), 'The last dead letters, newest first', [
    { title: 'When', kind: 'when', text: ([letter, now]) => ago(Date.parse(letter.time), now) },
    { title: 'DID', kind: 'foreign code did', text: ([letter]) => foreign(letter.did) },
    { title: 'Letter', kind: 'foreign code id', text: ([letter]) => foreign(letter.id) },
    { title: 'Reason', kind: 'foreign code reason', text: ([letter]) => foreign(letter.reason) },
    { title: 'Attempts', kind: 'number', text: ([letter]) => count(letter.attempts) },
    { title: 'Error', kind: 'foreign error', text: ([letter]) => foreign(letter.error) },
  ]);
  return ({ dead_letters: { stream, length, last }, now_ms }) => {
    table.fill(last.map((letter) => [letter, now_ms]));
    const note = by_id('letters-note');
    if (length === 0) say(note, `None. Messages that cannot be done are kept in ${foreign(stream)}, with the reason.`);
    else {
      say(note, `${count(length)} in ${foreign(stream)}; the last ${count(last.length)} are below. `, 'backfiller dead-letters list', ' shows all, ', 'backfiller dead-letters requeue --reason …', ' tries those of a reason again.');
    }
  };
};

const totals = () => {
  const list = by_id('totals-list');
  return ({ totals: sums, started_ms, now_ms }) => {
    say(by_id('totals-note'), `Since it began ${ago(started_ms, now_ms)}.`);
    terms(list, [
      ['Repos done', count(sums.repos)],
      ['Records written', count(sums.records)],
      ['Events', count(sums.events)],
      ['Chunks', count(sums.chunks)],
      ['Downloaded', bytes(sums.bytes)],
      ['Records skipped as invalid', count(sums.skipped)],
      ['Records filtered out', count(sums.filtered)],
      ['Failures', count(sums.failures)],
      ['Retries', count(sums.retries)],
      ['Put off, uncharged', count(sums.deferrals)],
      ['Dead letters', count(sums.dead_letters)],
      ['Repos in a file', count(sums.spills)],
      ['Waited for the output', duration(sums.backpressure_seconds)],
    ]);
  };
};

/** Makes all sections; the answer shows a status in them. */
export const sections = () => {
  const all = [figures(), hour(), flow(), workers(), hosts(), failures(), letters(), totals()];
  return (status) => all.forEach((update) => update(status));
};
