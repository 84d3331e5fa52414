// The contender Node. It does what greenhttp_client.py, greenlets.py and tally.py do.
'use strict';

const http = require('http');

const [url, size, concurrency, warmUp, seconds] = process.argv.slice(2).map((word, at) => (at ? Number(word) : word));

const agent = new http.Agent({ keepAlive: true, maxSockets: concurrency });
const { hostname, port, pathname } = new URL(url);
const options = { hostname, port, path: pathname, agent };

let running = true;
let requests = 0;
let errors = 0;

// A worker gives up. One error voids the run, so it need not go on.
function fail(error) {
  errors += 1;
  console.error(String(error));
}

function ask() {
  http.get(options, (res) => {
    const pieces = [];
    res.on('data', (piece) => pieces.push(piece));
    res.on('end', () => {
      const body = pieces.length === 1 ? pieces[0] : Buffer.concat(pieces);
      if (res.statusCode !== 200 || body.length !== size) {
        fail(new Error(`status ${res.statusCode} and ${body.length} bytes, not 200 and ${size}`));
        return;
      }
      requests += 1;
      if (running) ask();
    });
    res.on('error', fail);
  }).on('error', fail);
}

function figures() {
  const cpu = process.cpuUsage();
  return { requests, seconds: performance.now() / 1e3, cpu_seconds: (cpu.user + cpu.system) / 1e6 };
}

function start() {
  const before = figures();
  setTimeout(() => stop(before), seconds * 1e3);
}

function stop(before) {
  const after = figures();
  running = false;
  const measured = { about: `Node ${process.version}` };
  for (const name of Object.keys(after)) measured[name] = after[name] - before[name];
  process.on('exit', () => console.log(JSON.stringify({ ...measured, errors }))); // once the last answers have come
}

for (let count = 0; count < concurrency; count += 1) ask();
setTimeout(start, warmUp * 1e3);
