// Talks to a Kernex control plane. The contract is in `proto/`; calls that answer once return
// promises, streams are those of grpc-js.
import { createHash, X509Certificate } from 'node:crypto';
import { readFile, readdir } from 'node:fs/promises';
import { isIP } from 'node:net';
import { connect as dial } from 'node:tls';
import { fileURLToPath } from 'node:url';
import { credentials, loadPackageDefinition, Metadata } from '@grpc/grpc-js';
import { load } from '@grpc/proto-loader';

const PROTO = fileURLToPath(new URL('proto', import.meta.url));
// A connection that is not there by then is not coming.
const LIMIT_MS = 15_000;
// As in the contract, but for JavaScript's own way to write names.
const OPTIONS = { keepCase: false, longs: String, enums: String, defaults: true, oneofs: true, includeDirs: [PROTO] };

/** The context file cannot be used, or the server is not the one it names. */
export class ContextError extends Error {}

/**
 * Connects to the control plane of a context file (`kernexctl context export --file kernex.json`). Returns a client for
 * each service by its name, such as `DeviceService`, and `close()`.
 */
export async function connect(contextFile) {
  const context = await read(contextFile);
  const { protocol, hostname, port } = parse(context.server);
  if (protocol !== 'https:') throw new ContextError(`\`${context.server}\` is not an address like https://kernex.example:7443`);
  // Brackets belong to an address in a URL, not to the host.
  const host = hostname.replace(/^\[|\]$/g, '');
  const ca = await pinnedCa(host, Number(port || 443), context.pin);
  const token = credentials.createFromMetadataGenerator((_, done) => {
    const metadata = new Metadata();
    metadata.set('authorization', `Bearer ${context.token}`);
    done(null, metadata);
  });
  const channel = credentials.combineChannelCredentials(credentials.createSsl(ca), token);
  const files = (await readdir(`${PROTO}/kernex/v1`)).map((file) => `kernex/v1/${file}`);
  const services = loadPackageDefinition(await load(files, OPTIONS)).kernex.v1;
  const clients = {};
  for (const [name, Service] of Object.entries(services)) {
    if (Service.service) clients[name] = withPromises(new Service(`${hostname}:${port || 443}`, channel), Service.service);
  }
  clients.close = () => Object.values(clients).forEach((client) => client.close?.());
  return clients;
}

/** Every page of a list: calls again with the token of the next page until there is none. */
export async function* pages(call, request = {}) {
  let pageToken = '';
  do {
    const page = await call({ ...request, pageToken });
    yield page;
    pageToken = page.nextPageToken;
  } while (pageToken);
}

// Calls that answer once take (request, options) and return a promise.
function withPromises(client, methods) {
  for (const { originalName, requestStream, responseStream } of Object.values(methods)) {
    if (requestStream || responseStream) continue;
    const call = client[originalName].bind(client);
    client[originalName] = (request, options = { deadline: Date.now() + 30_000 }) =>
      new Promise((resolve, reject) => {
        call(request, options, (error, answer) => (error ? reject(error) : resolve(answer)));
      });
  }
  return client;
}

async function read(contextFile) {
  let context;
  try {
    context = JSON.parse(await readFile(contextFile, 'utf8'));
  } catch (error) {
    throw new ContextError(`cannot read the context file ${contextFile}: ${error.message}`, { cause: error });
  }
  for (const name of ['server', 'pin', 'token']) {
    if (typeof context?.[name] !== 'string') throw new ContextError(`the context file ${contextFile} has no \`${name}\``);
  }
  return context;
}

function parse(server) {
  try {
    return new URL(server);
  } catch {
    return {};
  }
}

// The CA that the server shows, if it is the one with this pin. gRPC then checks the server's own
// certificate.
function pinnedCa(host, port, pin) {
  return new Promise((resolve, reject) => {
    const options = { host, port, minVersion: 'TLSv1.3', ALPNProtocols: ['h2'], rejectUnauthorized: false };
    if (!isIP(host)) options.servername = host;
    const socket = dial(options, () => {
      let certificate = socket.getPeerCertificate(true);
      // The CA issued itself.
      while (certificate.issuerCertificate && certificate.issuerCertificate !== certificate) {
        certificate = certificate.issuerCertificate;
      }
      socket.destroy();
      const ca = new X509Certificate(certificate.raw);
      const key = ca.publicKey.export({ type: 'spki', format: 'der' });
      if (createHash('sha256').update(key).digest('hex') === pin.toLowerCase()) return resolve(Buffer.from(ca.toString()));
      reject(new ContextError(`the CA of ${host}:${port} is not the one with the pin ${pin}: this is another control plane`));
    });
    socket.setTimeout(LIMIT_MS, () => socket.destroy(new Error('no answer in time')));
    socket.on('error', (error) => {
      reject(new ContextError(`no TLS connection to ${host}:${port}: ${error.message}`, { cause: error }));
    });
  });
}
