import createClient, { type Middleware } from "openapi-fetch";
import { noteServerTime } from "../parts/clock";
import { Failure, failureOf, unreachable } from "./failure";
import type { components, paths } from "./schema";

export type Schemas = components["schemas"];

const ANSWER_WITHIN_MS = 15_000; // the appliance itself ends every request within 11 s
// What the appliance lets take longer than other requests, by method and end of the path.
const LONG_MS = new Map([
  ["POST /backups", 610_000],
  ["PUT /cluster/update/file", 3_610_000],
]);
const LOGINS = new Set(["/api/v1/login", "/api/v1/oidc/callback"]);
const SAFE = new Set(["GET", "HEAD"]);

/** What proves this browser's session beside its cookie; never stored. */
const proof = { csrf: "" };
let whenSignedOut: () => void = () => undefined;

export function setCsrf(csrf: string): void {
  proof.csrf = csrf;
}

export function onSignedOut(call: () => void): void {
  whenSignedOut = call;
}

/** Adds to any request what this console's requests have. */
export function withProof(headers: Headers, method: string): void {
  headers.set("X-Cairn-Console", "1");
  if (SAFE.has(method)) return;
  headers.set("X-CSRF-Token", proof.csrf);
  if (method === "POST" && !headers.has("Idempotency-Key")) {
    headers.set("Idempotency-Key", crypto.randomUUID());
  }
}

async function boundedFetch(request: Request): Promise<Response> {
  const path = new URL(request.url).pathname.replace("/api/v1", "");
  const bound = AbortSignal.timeout(LONG_MS.get(`${request.method} ${path}`) ?? ANSWER_WITHIN_MS);
  try {
    return await fetch(request, { signal: AbortSignal.any([request.signal, bound]) });
  } catch (error) {
    if (request.signal.aborted) throw error;
    throw unreachable(bound.aborted);
  }
}

const middleware: Middleware = {
  onRequest({ request, schemaPath }) {
    withProof(request.headers, request.method);
    // A login has a code that holds once: the same request again is another attempt.
    if (LOGINS.has(schemaPath)) request.headers.delete("Idempotency-Key");
    return request;
  },
  onResponse({ response, schemaPath }) {
    noteServerTime(response.headers.get("date"));
    if (response.status === 401 && schemaPath !== "/api/v1/login") whenSignedOut();
    return response;
  },
};

export const api = createClient<paths>({
  baseUrl: window.location.origin,
  credentials: "same-origin",
  fetch: boundedFetch,
});
api.use(middleware);

interface Answer<T> {
  data?: T;
  error?: unknown;
  response: Response;
}

/** Returns what was answered, or throws a Failure with cause and remedy. */
export async function answered<T>(asked: Promise<Answer<T>>): Promise<T> {
  const { data, error, response } = await asked;
  if (!response.ok) throw failureOf(response.status, error);
  return data as T;
}

/** The same with the ETag that a change has to name. */
export async function answeredWithTag<T>(
  asked: Promise<Answer<T>>,
): Promise<{ value: T; tag: string }> {
  const answer = await asked;
  const value = await answered(Promise.resolve(answer));
  return { value, tag: answer.response.headers.get("etag") ?? "" };
}

const PAGES_MAX = 100;

/** Returns all items of a list, page by page. */
export async function allPages<T>(
  page: (cursor: string | undefined) => Promise<Answer<{ items: T[]; next?: string | null }>>,
): Promise<T[]> {
  const items: T[] = [];
  let cursor: string | undefined;
  for (let count = 0; count < PAGES_MAX; count++) {
    const { items: more, next } = await answered(page(cursor));
    items.push(...more);
    if (!next) return items;
    cursor = next;
  }
  throw new Failure(0, "too_long", "the list is too long to be shown", "filter it by the command");
}
