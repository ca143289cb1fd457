// How values are shown: numbers with their units, times, and the words of strangers.
//
// Bytes that came over the network are counted in thousands (kB, MB), memory in 1024s (MiB), as the settings are. What is not known
// is a dash.

const NONE = '–';
const LOCALE = 'en';

const whole = new Intl.NumberFormat(LOCALE, { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat(LOCALE, { maximumSignificantDigits: 3 });
const three = new Intl.NumberFormat(LOCALE, { minimumSignificantDigits: 3, maximumSignificantDigits: 3 });
const four = new Intl.NumberFormat(LOCALE, { notation: 'compact', minimumSignificantDigits: 4, maximumSignificantDigits: 4 });
const compact = new Intl.NumberFormat(LOCALE, { notation: 'compact', maximumSignificantDigits: 3 });
const clock = new Intl.DateTimeFormat(LOCALE, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });

const known = (n) => typeof n === 'number' && Number.isFinite(n);

/** 12,345 */
export const count = (n) => (known(n) ? whole.format(n) : NONE);

/** 12,345 or 0.027: a rate, or another number that may be small. */
export const number = (n) => (!known(n) ? NONE : n >= 100 ? whole.format(n) : fine.format(n));

/** 12,345, from ten millions on 12.35M: where there is little room for large ones. */
export const large = (n) => (!known(n) ? NONE : n < 1e7 ? whole.format(n) : four.format(n));

/** 12.3K: for axes. */
export const short = (n) => (known(n) ? compact.format(n) : NONE);

const scaled = (n, base, units, digits) => {
  if (!known(n)) return NONE;
  let unit = 0;
  // 999.6 would be shown as 1,000 of the smaller unit.
  while (n >= base - 0.5 && unit < units.length - 1) {
    n /= base;
    unit += 1;
  }
  return `${unit === 0 ? whole.format(n) : digits.format(n)} ${units[unit]}`;
};

const TRANSFERRED = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];

/** 12.0 MB: what was transferred. */
export const bytes = (n) => scaled(n, 1000, TRANSFERRED, three);

/** 12 MB: for axes. */
export const short_bytes = (n) => scaled(n, 1000, TRANSFERRED, fine);

/** 12.3 MiB: what is held in memory. */
export const memory = (n) => scaled(n, 1024, ['B', 'KiB', 'MiB', 'GiB', 'TiB'], fine);

/** 12 %, and never a full 100 of what is not. */
export const percent = (part, of) => {
  if (!known(part) || !known(of) || of <= 0) return NONE;
  const share = (100 * part) / of;
  if (share > 0 && share < 1) return '< 1 %';
  return `${whole.format(share < 100 ? Math.floor(share) : share)} %`;
};

/** 0.4 s, 12 s, 3 min 4 s, 2 h 5 min, 3 d 4 h. */
export const duration = (seconds) => {
  if (!known(seconds)) return NONE;
  if (seconds < 9.95) return `${Math.max(seconds, 0).toFixed(1)} s`;
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  const [large, small, rest] = s < 3600 ? ['min', 's', [60, 1]] : s < 86400 ? ['h', 'min', [3600, 60]] : ['d', 'h', [86400, 3600]];
  const [most, least] = [Math.floor(s / rest[0]), Math.floor((s % rest[0]) / rest[1])];
  return least ? `${whole.format(most)} ${large} ${least} ${small}` : `${whole.format(most)} ${large}`;
};

/** 12:03:15, in the time of the one who looks. */
export const time = (ms) => (known(ms) ? clock.format(ms) : NONE);

/** 3 min 4 s ago, by the worker's clock. */
export const ago = (ms, now) => (known(ms) && known(now) ? `${duration(Math.max(now - ms, 0) / 1000)} ago` : NONE);

// Controls, and what is not seen but changes what is: the directions of writing, joiners, fillers, tags, half characters.
const UNSEEN =
  /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\u{e0000}-\u{e0fff}]/gu;

/** The words of a stranger (DID, host, error text): what cannot be seen is written out. Only ever for textContent or setAttribute. */
export const foreign = (text) =>
  text === null || text === undefined || text === ''
    ? NONE
    : String(text).replace(UNSEEN, (c) => `\\u{${c.codePointAt(0).toString(16)}}`);
