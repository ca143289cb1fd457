// What each reason of a failure means, and what becomes of the message: the table of the README, in brief.

const MEANINGS = {
  bad_message: 'The message cannot be understood: no JSON, no or a bad DID, a bad host. It is a dead letter at once.',
  too_large: 'The repo is larger than BACKFILLER_MAX_REPO_BYTES, or has too many blocks. It is a dead letter at once.',
  repo_gone: 'The account’s own server says that the repo is deleted, deactivated, suspended or taken down. It is a dead letter after 2 attempts.',
  identity: 'The DID is not found or tombstoned, or its document has no usable key. It is a dead letter after 2 attempts.',
  car: 'A frame, the root or the hash of a block is wrong, or the body is no CAR. It is a dead letter after 3 attempts.',
  incomplete: 'A block that the tree needs is missing. It is a dead letter after 3 attempts.',
  mst: 'Order, depth, prefix or shape of the tree is wrong. It is a dead letter after 3 attempts.',
  commit: 'The commit is malformed. It is a dead letter after 3 attempts.',
  did_mismatch: 'The commit is another account’s. It is a dead letter after 3 attempts.',
  signature: 'The commit is not signed by the key in the DID document. It is a dead letter after 3 attempts.',
  deferred: 'The host or the directory cannot be asked for now, or there is no room for the repo. The message waits uncharged.',
  network: 'Time-outs, connection errors, status 5xx, bodies that were cut. Tried again up to BACKFILLER_MAX_ATTEMPTS.',
  http_status: 'Another status, a redirect that leads nowhere, or a 200 that is no CAR. Tried again up to BACKFILLER_MAX_ATTEMPTS.',
  panic: 'A defect of this program. Tried again up to BACKFILLER_MAX_ATTEMPTS; please report it with the log.',
  redis: 'Redis refused for good. The message stays, and the process ends with status 1.',
};

/** A sentence, or nothing for a reason that is not known here. */
export const meaning = (reason) => (Object.hasOwn(MEANINGS, reason) ? MEANINGS[reason] : '');
