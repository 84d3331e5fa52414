// The contender Node, over TLS if it gets a certificate. Path by path it does what greenhttp_server.py does.
'use strict';

const fs = require('fs');
const http = require('http');
const https = require('https');
const { parseArgs } = require('util');

// As in payloads.py.
const HELLO = 'Hello, World!';
const CHUNK = Buffer.alloc(16 * 1024, '0123456789abcdef');
const DOWNLOAD = Buffer.alloc(1024 * 1024, CHUNK);

let parked = [];

function answer(res, body) {
  res.setHeader('Content-Type', 'text/plain');
  res.end(body);
}

const ROUTES = {
  '/hello': (req, res) => answer(res, HELLO),

  '/echo': (req, res) => {
    const pieces = [];
    req.on('data', (piece) => pieces.push(piece));
    req.on('end', () => answer(res, pieces.length === 1 ? pieces[0] : Buffer.concat(pieces)));
  },

  '/download': (req, res) => answer(res, DOWNLOAD),

  '/stream': (req, res) => {
    let left = Number(req.url.split('?bytes=')[1]) / CHUNK.length;
    res.setHeader('Content-Type', 'text/plain');
    const writeOn = () => {
      while (left > 0) {
        left -= 1;
        if (!res.write(CHUNK)) {
          res.once('drain', writeOn);
          return;
        }
      }
      res.end();
    };
    writeOn();
  },

  '/upload': (req, res) => {
    let bytes = 0;
    req.on('data', (piece) => { bytes += piece.length; });
    req.on('end', () => answer(res, String(bytes)));
  },

  '/parked': (req, res) => parked.push(res),

  '/waiting': (req, res) => answer(res, String(parked.length)),

  '/release': (req, res) => {
    const released = parked;
    parked = [];
    for (const waiting of released) answer(waiting, HELLO);
    answer(res, HELLO);
  },
};

function handle(req, res) {
  const query = req.url.indexOf('?');
  ROUTES[query < 0 ? req.url : req.url.slice(0, query)](req, res);
}

const { cert, key } = parseArgs({ options: { cert: { type: 'string' }, key: { type: 'string' } } }).values;
const server = cert
  ? https.createServer({ cert: fs.readFileSync(cert), key: fs.readFileSync(key) }, handle)
  : http.createServer(handle);

server.keepAliveTimeout = 120000; // as greenhttp; by default Node ends idle connections after 5 s, in mid-measurement
server.listen(0, '127.0.0.1', () => {
  console.log(server.address().port);
  console.log(`Node ${process.version}` + (cert ? `, OpenSSL ${process.versions.openssl}` : ''));
});
