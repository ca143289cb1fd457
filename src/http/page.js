// Asks the worker how it is, as long as somebody looks, and says so where it does not answer.
//
// What is shown comes from `status.json` alone. A page in the background asks for nothing. Whatever goes wrong, the next round
// tries again: the page is left open for weeks.

import { duration, foreign, time } from './format.js';
import { sections } from './sections.js';
import { put } from './tables.js';

/** Between an answer and the next question. */
const EVERY_MS = 2000;
/** After this long without an answer there will be none. */
const PATIENCE_MS = 10_000;
/** From this age on what is shown is called old. */
const OLD_MS = 3 * EVERY_MS;

const [main, state, text, age, consumer, about] = ['main', 'state', 'state-text', 'state-age', 'consumer', 'about'].map((id) => document.getElementById(id));
const show = sections();

/** The last answer, when it came, and why there was none since. */
let status = null;
let came_ms = null;
let trouble = null;
let timer = null;
let asking = false;

const ask = async () => {
  const answer = await fetch('status.json', { cache: 'no-store', signal: AbortSignal.timeout(PATIENCE_MS) });
  if (!answer.ok) throw new Error(`it answers ${answer.status}`);
  return answer.json();
};

const why = (error) => (error.name === 'TimeoutError' ? `no answer in ${duration(PATIENCE_MS / 1000)}` : error instanceof TypeError ? 'no connection' : error.message);

/** Shows an answer; that this cannot be done is no fault of the way to the worker. */
const shown = (next) => {
  // Charts are drawn at the width that they have.
  main.hidden = false;
  try {
    show(next);
    head(next);
  } catch (error) {
    // A worker of another version, or a browser that is too old.
    return `The worker’s answer cannot be shown: ${error.message}`;
  }
  [status, came_ms] = [next, Date.now()];
  return null;
};

const round = async () => {
  if (asking || document.hidden) return;
  asking = true;
  clearTimeout(timer);
  try {
    trouble = shown(await ask());
  } catch (error) {
    trouble = `The worker cannot be reached: ${why(error)}`;
  }
  asking = false;
  say_state();
  timer = setTimeout(round, EVERY_MS);
};

const head = (status) => {
  put(consumer, foreign(status.consumer));
  put(about, `Group ${foreign(status.group)}, version ${foreign(status.version)}, since ${new Date(status.started_ms).toISOString().replace(/\.\d+Z/, 'Z')}`);
  document.title = `${foreign(status.consumer)} – backfiller`;
};

/** The level and one or more sentences; without numbers that change, for it is read out whenever it does. */
const states = () => {
  if (trouble) return ['bad', `${foreign(trouble)}. The page tries again by itself.`];
  if (!status) return ['unknown', 'Asking the worker …'];
  const said = [];
  if (!status.redis.connected) said.push(['bad', `Redis is away${status.redis.error ? `: ${foreign(status.redis.error)}` : ''}. The worker waits, and goes on by itself.`]);
  if (status.draining) said.push(['warn', 'Draining: nothing new is read, what is in work is finished, then the process ends.']);
  if (status.output.length >= status.output.high_water_mark) said.push(['warn', 'The output is full: writing waits until its consumer has read and trimmed it.']);
  if (said.length === 0) {
    const idle = status.workers.every((worker) => worker.phase === 'idle');
    return ['good', !idle ? 'Working.' : status.queue.length === 0 ? 'Idle: the queue is empty.' : 'Waiting.'];
  }
  return [said[0][0], said.map(([, sentence]) => sentence).join(' ')];
};

const say_state = () => {
  const [level, sentence] = states();
  state.dataset.level = level;
  put(text, sentence);
  const old_ms = came_ms === null ? 0 : Date.now() - came_ms;
  const old = came_ms !== null && (trouble !== null || old_ms > OLD_MS);
  main.dataset.old = String(old);
  put(age, came_ms === null ? '' : old ? `What is below is ${duration(Math.round(old_ms / 1000))} old.` : `Updated ${time(came_ms)}.`);
};

document.addEventListener('visibilitychange', () => {
  clearTimeout(timer);
  say_state();
  round();
});
setInterval(() => document.hidden || say_state(), 1000);
round();
