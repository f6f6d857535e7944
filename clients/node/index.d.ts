import type { CallOptions, Client } from '@grpc/grpc-js';

/** The context file cannot be used, or the server is not the one it names. */
export class ContextError extends Error {}

/** A call that answers once. Requests and answers are the messages of the contract, with names in camelCase. */
export type Call = (request: object, options?: CallOptions) => Promise<any>;

/** A client of one service; calls that stream are those of grpc-js. */
export type ServiceClient = Client & { [method: string]: any };

/** A client for each service of the contract by its name, such as `DeviceService`. */
export type Clients = { [service: string]: ServiceClient } & { close(): void };

/** Connects to the control plane of a context file (`kernexctl context export --file kernex.json`). */
export function connect(contextFile: string): Promise<Clients>;

/** Every page of a list. */
export function pages(call: Call, request?: object): AsyncGenerator<any>;
