// Node's own server, for the client to ask. It prints its port, and ends when its standard input does.
'use strict';
const crypto = require('crypto');
const http = require('http');
const net = require('net');

let connections = 0;

function count(req, res) {
  const hash = crypto.createHash('sha256');
  let size = 0;
  req.on('data', piece => { size += piece.length; hash.update(piece); });
  req.on('end', () => res.end(`${size} ${hash.digest('hex')} ${JSON.stringify(req.trailers)}`));
}

const paths = {
  '/chunks': (req, res) => { for (let i = 0; i < 1000; i++) res.write(`piece ${i}\n`); res.end(); },
  '/connection': (req, res) => res.end(`${req.socket.number} ${req.headers.connection}`),
  '/count': count,
  '/cut': (req, res) => { res.write('half', () => res.destroy()); },
  '/cut-length': (req, res) => { res.setHeader('Content-Length', 8); res.write('half', () => res.destroy()); },
  '/hints': (req, res) => {
    res.writeProcessing();
    res.writeEarlyHints({ link: '</style.css>; rel=preload' }, () => res.end('after the hints'));
  },
  '/large': (req, res) => {
    let left = 64;
    res.setHeader('Content-Length', left << 20);
    const more = () => { while (left && res.write(Buffer.alloc(1 << 20, left--))); left ? res.once('drain', more) : res.end(); };
    more();
  },
  '/lines': (req, res) => {
    res.setHeader('Set-Cookie', ['a=1', 'b=2']);
    res.end(JSON.stringify([req.method, req.rawHeaders]));
  },
  '/once': (req, res) => { // it says that it keeps the connection, and drops it at the next request
    if (req.socket.served) req.socket.destroy();
    else { req.socket.served = true; res.end('ok'); }
  },
  '/refuse': (req, res) => { res.writeHead(413, { Connection: 'close' }); res.end('too large'); },
  '/reset': (req, res) => {
    res.setHeader('Content-Length', 8);
    res.write('half', () => req.socket.resetAndDestroy());
  },
  '/reset-once-read': (req, res) => { // when the next request tells that the client has the first half
    const other = paths.waiting;
    paths.waiting = undefined;
    if (other) { other.socket.resetAndDestroy(); res.end('done'); }
    else { paths.waiting = res; res.write('half'); }
  },
  '/slow': (req, res) => {
    let left = 20;
    const tick = () => { res.write('.'); if (--left) setTimeout(tick, 10); else res.end(); };
    tick();
  },
  '/trailers': (req, res) => {
    res.writeHead(200, { Trailer: 'X-Sum' });
    res.write('body');
    res.addTrailers({ 'X-Sum': '42' });
    res.end();
  },
};

const server = http.createServer({ keepAliveTimeout: 60000 }, (req, res) => {
  const status = /^\/status\/(\d+)$/.exec(req.url);
  if (status) { res.statusCode = +status[1]; res.end(); } else paths[req.url](req, res);
});

server.on('connection', socket => { socket.number = ++connections; socket.on('error', () => {}); });

server.on('checkContinue', (req, res) => {
  if (req.url === '/refuse') { res.writeHead(417); res.end(); } else { res.writeContinue(); count(req, res); }
});

server.on('upgrade', (req, socket, head) => { // what comes goes back; the greeting is in one packet with the answer
  socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nwelcome ');
  socket.write(head);
  socket.pipe(socket);
});

server.on('connect', (req, socket, head) => {
  const [host, port] = req.url.split(':');
  if (port === '1') { socket.end('HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno\n'); return; }
  const origin = net.connect(+port || server.address().port, host, () => {
    socket.write('HTTP/1.1 200 Connection Established\r\n\r\n');
    origin.write(head);
    origin.pipe(socket).pipe(origin);
  });
  origin.on('error', () => socket.destroy());
});

server.listen(0, '127.0.0.1', () => console.log(server.address().port));
process.stdin.on('end', () => process.exit()).resume();
