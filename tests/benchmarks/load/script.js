// What k6 runs: as few lines as do what our generator does.
import http from 'k6/http';

const bodies = JSON.parse(open(__ENV.BODIES));
const params = { headers: { 'content-type': 'application/json' } };

export const options = {
  discardResponseBodies: true,
  scenarios: {
    open: {
      executor: 'constant-arrival-rate',
      rate: Number(__ENV.RATE),
      timeUnit: '1s',
      duration: `${__ENV.SECONDS}s`,
      preAllocatedVUs: 100,
      maxVUs: 512,
    },
  },
};

let turn = 0;

export default function () {
  http.post(__ENV.URL, bodies[turn++ % bodies.length], params);
}

export function handleSummary({ metrics }) {
  const failed = metrics.http_req_failed ? metrics.http_req_failed.values.passes : 0;
  return { stdout: JSON.stringify({ sent: metrics.http_reqs.values.count, failed }) };
}
